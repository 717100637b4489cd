"""Recompute what peers' ledgers have cost in privacy, without quidnunc: stdlib, msgpack, and dp-accounting for samples.

    python recompute_epsilon.py PLACE...

A place is a home, what ``quidnunc ledger export --format bundle`` wrote, or a ledger.db (of a daemon that runs, a copy
needs the ledger.db-wal beside it as well: export a bundle instead).
One line per ledger and unit of privacy (a record, the whole site, or a record in a private sum, against few): releases,
epsilon claimed and recomputed, delta.
Exit 0: no claim is below what was spent, 30: one is, or noise came from a test seed, 32: releases are missing or out
of order, so that what is printed is what is left of them, 65: a place has no ledger that can be read. All are read.
Written from docs/wire.md, entry 0x18 and the accountants of section 5: it shares no line with the program. That the
entries are the signed ones is for ``quidnunc ledger verify``. All spends of a ledger count.
"""

import math
import os
import sqlite3
import sys
from collections import Counter
from urllib.parse import quote

try:
    import msgpack
except ImportError:
    sys.exit("error: this needs the package msgpack: python -m pip install msgpack")

SPEND = 0x18
ALL = 1_000_000
OS_KEY = 1
SLACK_U = 1_000
PAYLOAD_BYTES = 65_535
BOUNDS = {
    "n": (1, 10**9),
    "ec_u": (0, 2**63),
    "de": (1, 15),
    "ns": (1, 2),
    "sg_u": (1, 10**12),
    "q_ppm": (1, ALL),
    "st": (1, 100_000),
    "pa_u": (0, 10**12),
    "pm": (0, 32),
    "pq": (0, 32),
}
LEFT_OUT = {"q_ppm": ALL, "st": 1, "pa_u": 0, "pm": 0, "pq": 0}


class Unreadable(Exception):
    """What keeps a ledger from being read."""


class Short(Exception):
    """What is missing from a ledger as a whole."""


def spends(path):
    """The dp.spend maps of the ledger at ``path``, in order; raises Unreadable, and Short for one without entries."""
    file = os.path.join(path, "state", "ledger.db") if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise Unreadable(f"{file} is no regular file" if os.path.exists(file) else f"there is no {file}")
    try:
        with sqlite3.connect(f"file:{quote(file)}?mode={mode(file)}", uri=True) as db:
            if not db.execute("SELECT count(*) FROM entry").fetchone()[0]:
                raise Short(
                    "the ledger is empty, as before a start or as a copy without its ledger.db-wal: export a bundle"
                )
            rows = db.execute(
                "SELECT length(payload), CASE WHEN length(payload) <= ? THEN payload END FROM entry WHERE type = ? "
                "ORDER BY seq",
                (PAYLOAD_BYTES, SPEND),
            ).fetchall()
    except sqlite3.Error as error:
        raise Unreadable(error) from None
    return [checked(payload, size, at) for at, (size, payload) in enumerate(rows, 1)]


def mode(file):
    """How SQLite opens it: where nothing can be written beside it, as a file that nobody changes."""
    writable = os.access(os.path.dirname(os.path.abspath(file)), os.W_OK)
    return "ro" if writable or os.path.exists(f"{file}-wal") else "ro&immutable=1"


def checked(payload, size, at):
    """The map in ``payload``; raises Unreadable for one that no daemon writes."""
    if size > PAYLOAD_BYTES:
        raise Unreadable(f"dp.spend {at} has {size} bytes, limit is {PAYLOAD_BYTES}")
    try:
        found = msgpack.unpackb(payload, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise Unreadable(f"dp.spend {at} is no msgpack: {type(error).__name__} {error}") from None
    if not isinstance(found, dict):
        raise Unreadable(f"dp.spend {at} is no map")
    if type(found.get("si", False)) is not bool:
        raise Unreadable(f"dp.spend {at}: si is {str(found['si'])[:40]}, must be true or false")
    for key, (low, high) in BOUNDS.items():
        value = found.get(key, LEFT_OUT.get(key))
        if type(value) is not int or not low <= value <= high:
            raise Unreadable(f"dp.spend {at}: {key} is {str(value)[:40]}, must be {low} to {high}")
    return found


def gap(found):
    """What is wrong with the numbers of the releases, which are 1, 2, 3 and so on; None if nothing is."""
    for due, each in enumerate(found, 1):
        if each["n"] != due:
            return f"release {each['n']} stands where release {due} is due: some are missing or out of order"
    return None


def gaussian(scale, delta):
    """The least epsilon of one Gaussian release of multiplier ``scale`` (Balle and Wang 2018, Theorem 8)."""

    def tail(x):
        return math.erfc(x / math.sqrt(2)) / 2

    def cost(epsilon):
        gain = math.exp(epsilon) if epsilon < 700 else math.inf
        far = tail(epsilon * scale + 1 / (2 * scale))
        return tail(epsilon * scale - 1 / (2 * scale)) - (gain * far if far else 0.0)

    low, high = 0.0, 1.0
    while cost(high) > delta:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > delta else (low, middle)
    return high


def sampled(kinds, delta):
    """The epsilon of all releases, by privacy loss distributions."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for (noise_u, rate, steps), count in sorted(kinds.items()):
        event = GaussianDpEvent(noise_u / 1e6)
        accountant.compose(event if rate == ALL else PoissonSampledDpEvent(rate / ALL, event), count * steps)
    return accountant.get_epsilon(delta)


def unit(spend):
    """Whom a spend's epsilon is about."""
    return "site" if spend.get("si", False) else "sum" if spend.get("pm", 0) else "record"


def summed(spend, colluders):
    """The noise of a release of a private sum against that many members, who know the noise of their pairs.

    The other h are left with the covariance a*I + b*L of the complete graph on them (eigenvalues a, once, and a + h*b):
    one over the i-th element on the diagonal of its inverse, rounded down.
    """
    own, pair, honest = spend["sg_u"] ** 2, spend["pa_u"] ** 2, max(1, spend["pm"] - colluders)
    whole = own + honest * pair
    return math.isqrt(honest * own * whole // (whole + (honest - 1) * own))


def counted(found, which):
    """The spends that count for the newest one of that unit: all before it, each as what it is to that unit."""
    newest = max(at for at, each in enumerate(found) if unit(each) == which)
    colluders = found[newest].get("pq", 0)
    for each in found[: newest + 1]:
        own = unit(each)
        if which == "site":
            if own == "site":
                yield each
        elif own == "site":
            yield each | {"sg_u": each["sg_u"] // 2}
        elif own == "sum":
            yield each | {"sg_u": summed(each, colluders if which == "sum" else each["pm"])}
        else:
            yield each


def recompute(found):
    """The epsilon of the spends ``found``, at the delta of the newest."""
    kinds = Counter((each["sg_u"], each.get("q_ppm", ALL), each.get("st", 1)) for each in found)
    delta = 10.0 ** -found[-1]["de"]
    if any(rate != ALL for _, rate, _ in kinds):
        return sampled(kinds, delta)
    return gaussian(
        sum(count * steps / (noise / 1e6) ** 2 for (noise, _, steps), count in kinds.items()) ** -0.5, delta
    )


def told(path, found, which):
    """Print the account of one unit; whether it is understated or void."""
    own = [each for each in found if unit(each) == which]
    claimed_u, real = own[-1]["ec_u"], recompute(list(counted(found, which)))
    seeded = any(each["ns"] != OS_KEY for each in own)
    wrong = claimed_u + SLACK_U < real * 1e6
    verdict = "VOID: noise from a test seed" if seeded else "UNDERSTATED" if wrong else "ok"
    whom = {"record": "", "site": " for the whole site", "sum": " of private sums"}[which]
    if which == "sum":
        whom += f" against {own[-1]['pq']} of {own[-1]['pm']} members (against all others: {alone(found):.4f})"
    print(
        f"{path}: {len(own)} releases{whom}, epsilon {claimed_u / 1e6:.4f} claimed, {real:.4f} recomputed, "
        f"delta 1e-{own[-1]['de']}: {verdict}"
    )
    return wrong or seeded


def alone(found):
    """The epsilon of the newest release of a private sum against any number of members."""
    newest = max(at for at, each in enumerate(found) if unit(each) == "sum")
    as_record = [each | {"sg_u": each["sg_u"] // 2 if unit(each) == "site" else each["sg_u"]} for each in found]
    return recompute(as_record[: newest + 1])


def main(paths):
    """Print a line per ledger and unit; the exit code, the worst of all."""
    bad = short = unread = False
    for path in paths:
        try:
            found = spends(path)
        except Unreadable as error:
            print(f"error: {path}: no ledger that can be read: {error}", file=sys.stderr)
            unread = True
            continue
        except Short as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            short = True
            continue
        if not found:
            print(f"{path}: nothing was released, epsilon 0")
            continue
        if (why := gap(found)) is not None:
            print(f"error: {path}: {why}", file=sys.stderr)
            short = True
        for which in [each for each in ("record", "site", "sum") if each in set(map(unit, found))]:
            bad = told(path, found, which) or bad
    return 30 if bad else 65 if unread else 32 if short else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(2 if len(sys.argv) < 2 else 0)
    sys.exit(main(sys.argv[1:]))
