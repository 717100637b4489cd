"""Trust policies as files that people write (C2SP tlog-policy).

::

    log quidnunc/v1/03be1cb9...+ed4c6bdd+AQOhB7/zzhC+HXDdGOS8...
    witness clinic-b quidnunc/v1/9a327d5e...+95b39e0e+BOpKbGPinFIKv...
    witness clinic-c quidnunc/v1/44fe0c1d...+0c0b9c6a+BM0bHDjJkVmjY...
    group witnesses 2 clinic-b clinic-c
    quorum witnesses

Each line is a log, a witness, a group of witnesses and earlier groups, the quorum, or a comment (``#``); words are
parted by spaces and tabs. The names of witnesses and groups mean nothing outside of the file. URLs behind a key
are allowed and dropped. A log's key may be no witness's: an owner does not vouch for itself.
"""

from __future__ import annotations

import re

from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.note import COSIGNATURE, ED25519, Verifier, format_vkey, parse_vkey
from quidnunc.crypto.policy import NO_QUORUM, Group, Policy, Witness

MAX_POLICY_BYTES = 65_536
MAX_POLICY_LOGS = 64
MAX_POLICY_WITNESSES = 64
MAX_POLICY_GROUPS = 64

_BAD_BYTES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_COUNT = re.compile("[1-9][0-9]{0,3}", re.ASCII)


def parse_policy(data: bytes) -> Policy:
    """The policy in a file; anything that is not strictly one raises :class:`Malformed`, naming the line."""
    if len(data) > MAX_POLICY_BYTES:
        raise Malformed(f"a policy of {len(data)} bytes, limit is {MAX_POLICY_BYTES}")
    if _BAD_BYTES.search(data):
        raise Malformed("a policy holds a control character other than newline and tab")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise Malformed("a policy must be UTF-8") from None
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        words = [word for word in re.split("[ \t]+", line) if word]
        if words and not words[0].startswith("#"):
            try:
                reader.read(words)
            except Malformed as error:
                raise Malformed(f"policy line {number}: {error.message}") from None
    return reader.finish()


def format_policy(policy: Policy) -> bytes:
    """The policy as a file, without comments; one that cannot be read back raises :class:`LocalProtocolError`."""
    lines = [f"log {format_vkey(verifier)}" for verifier in policy.logs]
    lines += [f"witness {each.name} {format_vkey(each.verifier)}" for each in policy.witnesses]
    lines += [f"group {each.name} {each.need} {' '.join(each.members)}" for each in policy.groups]
    data = ("\n".join([*lines, f"quorum {policy.quorum}"]) + "\n").encode()
    try:
        same = parse_policy(data) == policy
    except Malformed as error:
        raise LocalProtocolError(error.message) from None
    if not same:
        raise LocalProtocolError("a name in the policy cannot be written in a file")
    return data


class _Reader:
    """Reads the lines of a policy, each as a list of words."""

    def __init__(self) -> None:
        self._logs: list[Verifier] = []
        self._witnesses: list[Witness] = []
        self._groups: list[Group] = []
        self._quorum: str | None = None
        self._names = {NO_QUORUM}
        self._free: set[str] = set()
        self._keys: set[bytes] = set()
        self._ids: set[tuple[str, bytes]] = set()

    def read(self, words: list[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self._logs.append(self._key(vkey, ED25519, len(self._logs), MAX_POLICY_LOGS))
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                verifier = self._key(vkey, COSIGNATURE, len(self._witnesses), MAX_POLICY_WITNESSES)
                self._define(name)
                self._witnesses.append(Witness(name, verifier))
            case ["group", name, need, *members] if members:
                self._group(name, need, members)
            case ["quorum", name]:
                if self._quorum is not None:
                    raise Malformed("a second quorum")
                if name != NO_QUORUM and name not in self._names:
                    raise Malformed(f"quorum {name[:64]!a} is not defined above")
                self._quorum = name
            case _:
                raise Malformed("must be a log, witness, group or quorum line (c2sp.org/tlog-policy)")

    def finish(self) -> Policy:
        if self._quorum is None:
            raise Malformed("a policy must have a quorum line")
        return Policy(tuple(self._logs), tuple(self._witnesses), tuple(self._groups), self._quorum)

    def _group(self, name: str, need: str, members: list[str]) -> None:
        if len(self._groups) >= MAX_POLICY_GROUPS:
            raise Malformed(f"more than {MAX_POLICY_GROUPS} groups")
        unknown = [each for each in members if each not in self._free]
        if unknown or len(set(members)) != len(members):
            raise Malformed(f"member {(unknown or members)[0][:64]!a} is not defined above, or is in a group already")
        known = {"any": "1", "all": str(len(members))}.get(need, need)
        if not _COUNT.fullmatch(known) or int(known) > len(members):
            raise Malformed(f"a group of {len(members)} needs any, all or 1 to {len(members)} of them")
        self._free -= set(members)
        self._define(name)
        self._groups.append(Group(name, int(known), tuple(members)))

    def _define(self, name: str) -> None:
        if name in self._names:
            raise Malformed(f"the name {name[:64]!a} is taken")
        self._names.add(name)
        self._free.add(name)

    def _key(self, vkey: str, sig_type: int, count: int, limit: int) -> Verifier:
        verifier = parse_vkey(vkey)
        if verifier.type != sig_type:
            raise Malformed(f"a key of type {verifier.type}, must be {sig_type}")
        if verifier.public in self._keys or (verifier.name, verifier.id) in self._ids:
            raise Malformed("this key is listed already")
        if count >= limit:
            raise Malformed(f"more than {limit} of these")
        self._keys.add(verifier.public)
        self._ids.add((verifier.name, verifier.id))
        return verifier
