"""How ``quidnunc privacy audit`` reads: what every attack found beside its control, and what that shows or not."""

from __future__ import annotations

from typing import Any

from quidnunc.gossip.jobs import Unit
from quidnunc.peer.output import Line, Styled

SHOWS_NOT = (
    "that epsilon is as small as claimed: a lower bound is none from above. The claim rests on the accountant",
    "that stronger attacks fail: these know all records but the canaries, and the params of every round",
    "anything of what was released before: the audit trains anew, here and alone, with noise from its seed",
    "anything of what privacy does not cover (quidnunc budget show), nor of the key of a daemon's noise",
)

SHOWS_NOT_OF_SITES = (
    SHOWS_NOT[0],
    "that stronger attacks fail: this one knows all records of this site, and the params of every round",
    *SHOWS_NOT[2:],
)

_STYLES = {"consistent": "good", "contradicted": "bad", "blind": "warn"}
_WORDS = {"blind": "CANNOT SEE", "contradicted": "CONTRADICTED"}


def lines(report: dict[str, Any]) -> list[Line]:
    """The report for people."""
    claim, canaries = report["claim"], report["canaries"]
    found: list[Line] = [Styled(_subject(report), "strong")]
    if few := report.get("private_sum"):
        found.append(
            "a private sum: audited is a member's own noise, all that is left against the other members together"
        )
    if claim["epsilon"] is not None:
        found += _part("mechanism", report["mechanism"], _mechanism(report))
    found += _part("presence" if _of_site(report) else "canaries", canaries, _canaries(report))
    found += _part("membership", report["membership"], _membership(report["membership"]))
    found += _part("inversion", report["inversion"], _inversion(report["inversion"]))
    found.append("what this shows:")
    found += [f"  - {text}" for text in _shows(report)]
    found.append("what it does not show:")
    found += [f"  - {text}" for text in (SHOWS_NOT_OF_SITES if _of_site(report) else SHOWS_NOT)]
    if few:
        found.append(
            f"  - anything of the charter's epsilon {few['epsilon']:g} against {few['colluders']} of {few['members']} "
            "members: it rests on the noise of pairs, and alone there are none"
        )
    found.append(
        f"noise and coins are from seed {report['seed']}: nothing of this was sent, no budget was spent, and no ledger "
        "entry written"
    )
    found.append(Styled(_verdict(report["verdict"]), _STYLES.get(report["verdict"], "strong")))
    return found


def _shows(report: dict[str, Any]) -> list[str]:
    canaries, delta = report["canaries"], report["claim"]["delta"]
    shown = canaries["epsilon"]
    what = "trainings" if _of_site(report) else "canaries"
    found = [f"these {what} show no leak at all"]
    if shown:
        sure = f"with confidence {100 * canaries['confidence']:.0f}%"
        found = [
            f"{sure}, this training is not ({shown:.2f}, {delta:g})-differentially private: less must not be claimed"
        ]
    if "control" in canaries:
        reach = canaries["control"]["epsilon_gaussian"] or canaries["control"]["epsilon"]
        found.append(f"a claim of epsilon {reach:.2f} or more is out of reach of these {what}, whatever the noise")
    return found


def _subject(report: dict[str, Any]) -> str:
    claim = report["claim"]
    what = f"task {report['task']}, {report['records']} records, {report['rounds']} rounds"
    if claim["epsilon"] is None:
        return f"{what}, without differential privacy: nothing is claimed"
    how = f"clip {claim['clip']:g}, noise multiplier {claim['noise_multiplier']:g}"
    if _of_site(report):
        how += ", one noised delta a round for the whole site"
    elif claim["sampling_rate"] < 1:
        how += f", {claim['steps']} steps a round on samples at rate {claim['sampling_rate']:g}"
    return f"{what}, {how}: claimed epsilon {claim['epsilon']:.4f} at delta {claim['delta']:g}"


def _part(name: str, part: dict[str, Any], texts: list[str]) -> list[Line]:
    word = part["verdict"]
    head = Styled(f"{name:11} {_WORDS.get(word, word)}", _STYLES.get(word, "strong"))
    return [head, *(f"  {text}" for text in texts or [part.get("why", "")])]


def _of_site(report: dict[str, Any]) -> bool:
    return bool(report["claim"]["unit"] == Unit.SITE.label)


def _mechanism(report: dict[str, Any]) -> list[str]:
    part = report["mechanism"]
    moved = "one record moves the sum by {:.4f} clips at most, outliers included"
    if _of_site(report):
        moved = "this site moves a release by {:.4f} clips at most, also with records a hundred times as large"
    return [
        f"noise {part['noise_ratio']:.3f} of what is claimed (chance: within {part['noise_ratio_bound']:.3f}), "
        f"correlated from round to round by {part['noise_repeated']:+.3f} (within {part['noise_repeated_bound']:.3f})",
        moved.format(part["largest_contribution"]),
    ]


def _canaries(report: dict[str, Any]) -> list[str]:
    part = report["canaries"]
    what = "trainings, with this site or without it" if _of_site(report) else "canaries in one training"
    found = [
        f"{part['count']} {what}: epsilon is above {part['epsilon']:.2f} "
        f"({part['right']} of {part['guesses']} guesses right, at most {part['showable_epsilon']:.2f} can be shown)"
    ]
    found.append(f"from the last model alone, by their losses: above {part['epsilon_by_loss']:.2f}")
    if part["epsilon_gaussian"] is not None:
        found.append(f"as a Gaussian mechanism, which it claims to be: above {part['epsilon_gaussian']:.2f}")
    if "control" in part:
        control = part["control"]
        gaussian = control["epsilon_gaussian"]
        found.append(
            f"without noise: {control['epsilon']:.2f} ({control['right']} of {control['guesses']} right), by losses "
            f"{control['epsilon_by_loss']:.2f}"
            + ("" if gaussian is None else f", as a Gaussian mechanism {gaussian:.2f}")
        )
    return found


def _membership(part: dict[str, Any]) -> list[str]:
    if "loss" not in part:
        return []
    found = [f"{part['models']} models, each on half of {part['records']} records: {_attacks(part)}"]
    if "control" in part:
        found.append(f"without noise: {_attacks(part['control'])}")
    return found


def _attacks(part: dict[str, Any]) -> str:
    def one(name: str) -> str:
        return f"{name} {part[name]['auc']:.3f} (TPR at 1% FPR {part[name]['tpr_at_1_percent_fpr']:.3f})"

    return f"AUC by {one('loss')}, by {one('likelihood')}"


def _inversion(part: dict[str, Any]) -> list[str]:
    if "cosine" not in part:
        return []
    found = [
        f"records of one, read from the bytes of an update: {_read(part)} (by chance {part['cosine_by_chance']:.2f})"
    ]
    if "control" in part:
        found.append(f"without noise: {_read(part['control'])}")
    return found


def _read(part: dict[str, Any]) -> str:
    return f"cosine {part['cosine']:.3f}, {part['psnr_db']:.1f} dB"


def _verdict(word: str) -> str:
    return {
        "consistent": "consistent with what is claimed",
        "contradicted": "contradicts what is claimed",
        "blind": "cannot see: nothing is shown either way",
    }.get(word, "nothing is claimed: what was found is what an update gives away")
