"""A charter as people read it and as ``--json`` gives it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.founding import Opened
from quidnunc.gossip.federation.privacy_terms import PrivacySpec
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import PPM, Unit
from quidnunc.gossip.private_sum import epsilon_alone
from quidnunc.peer.commands.data_schema import schema_lines
from quidnunc.peer.naming import fingerprint, peer_id
from quidnunc.peer.output import Line, Styled

_CODECS = ("float32", "int8")
_STARTS = {"all": "all neighbors", "majority": "most neighbors"}


def charter_data(opened: Opened) -> dict[str, Any]:
    """Everything in a charter, with hashes in hex and reals as numbers."""
    charter = opened.charter
    task, training, merge = charter.task, charter.training, charter.merge
    return {
        "federation_id": charter.federation_id.hex(),
        "epoch": charter.epoch,
        "purpose": charter.purpose,
        "created": when(charter.t_ms),
        "complete": not opened.missing,
        "missing": [member.name for member in opened.missing],
        "members": [
            {
                "name": member.name,
                "log_id": member.log_id.hex(),
                "peer_id": peer_id(member.transport),
                "fingerprint": fingerprint(member.log_id),
                "signed": member.log_id in opened.signed,
                "addresses": list(member.addresses),
                "size_bucket": member.size_bucket,
                "neighbors": [neighbor.name for neighbor in charter.neighbors(member.log_id)],
            }
            for member in charter.members
        ],
        "task": {
            "reference": task.reference,
            "options": dict(task.options),
            "schema": task.schema.hex(),
            "genesis": task.genesis.hex(),
            "dim": task.dim,
            "seed": task.seed,
            "data_schema": task.data_schema,
            "personal": list(task.personal),
        },
        "training": {
            "learning_rate": training.learning_rate_u / MICRO,
            "momentum": training.momentum_u / MICRO,
            "local_steps": training.local_steps,
            "batch_size": training.batch_size,
            "prox": training.prox_u / MICRO,
        },
        "merge": {
            "rule": merge.rule,
            "options": merge.values,
            "drag_cap": merge.drag_cap_u / MICRO,
            "size_cap": merge.size_cap_u / MICRO if merge.size_cap_u else None,
        },
        "privacy": _privacy_data(charter),
        "rounds": charter.rounds.to_value(),
        "edges": [list(edge) for edge in charter.edges],
        "codec": _CODECS[charter.codec],
        "quorum": charter.quorum,
        "payload_bytes": charter.payload_bytes,
    }


def charter_lines(opened: Opened, *, terms: bool = True) -> list[Line]:
    """The charter on about a screen; without ``terms`` where they were shown before."""
    charter = opened.charter
    return [
        Styled(f"federation {charter.federation_id.hex()}", "strong"),
        *([f"purpose    {charter.purpose}"] if charter.purpose else []),
        *(terms_lines(charter) if terms else []),
        f"members    {len(charter.members)}, {len(charter.edges)} links, "
        f"{charter.quorum} must sign any later charter; drafted {when(charter.t_ms)}",
        *member_lines(opened),
        signature_line(opened),
    ]


def terms_lines(charter: Charter) -> list[Line]:
    """What signing binds a member to."""
    task, training, rounds = charter.task, charter.training, charter.rounds
    options = "".join(f", {key}={value}" for key, value in task.options.items())
    lead = f", at most {rounds.lead} ahead of the slowest" if rounds.lead else ""
    pace = f"{rounds.interval_ms / 1000:g} s apart" if rounds.interval_ms else "as fast as training goes"
    if charter.privacy.private and charter.privacy.unit != Unit.SITE:
        step = charter.privacy.release
        each = f"{step.steps} steps on sampled batches" if step.sampled else "one full-batch step"
        steps = f"{each} per round, learning rate {training.learning_rate_u / MICRO:g}"
    else:
        steps = (
            f"{training.local_steps} steps of {training.batch_size} examples per round, "
            f"learning rate {training.learning_rate_u / MICRO:g}, momentum {training.momentum_u / MICRO:g}"
        )
    if training.prox_u:
        steps += f", proximal term {training.prox_u / MICRO:g}"
    return [
        f"task       {task.reference}{options}: {task.dim} params, seed {task.seed}, schema {task.schema.hex()[:16]}",
        *schema_lines(task),
        *(
            [f"personal   {', '.join(task.personal)}: trained by every member for itself, never sent"]
            if task.personal
            else []
        ),
        f"training   {steps}",
        f"merge      {charter.merge.rule}{_rule_options(charter)}, {_CODECS[charter.codec]} deltas{_sizes(charter)}",
        f"privacy    {privacy_sentence(charter)}",
        f"rounds     {rounds.count}, {pace}{lead}, once {_STARTS[rounds.start]} are connected",
    ]


def _rule_options(charter: Charter) -> str:
    return "".join(f", {key}={value:g}" for key, value in sorted(charter.merge.values.items()))


def _sizes(charter: Charter) -> str:
    cap_u = charter.merge.size_cap_u
    return f", members weighed by size up to {cap_u / MICRO:g} times the median" if cap_u else ""


def privacy_sentence(charter: Charter) -> str:
    """The promise in one sentence, naming unit, adjacency, adversary, accountant and noise."""
    privacy = charter.privacy
    if not privacy.private:
        return "none: what is sent may reveal training records"
    if privacy.unit == Unit.SITE:
        whom, clip = "all training records of one member together (there or absent)", "clip of a round's delta"
    else:
        whom, clip = "one record of one member (add or remove)", "clip"
    if privacy.unit == Unit.SUM:
        return _sum_sentence(privacy)
    sampling = f", Poisson sampling at rate {privacy.rate_ppm / PPM:g}" if privacy.sampled else ""
    return (
        f"epsilon {privacy.epsilon_u / MICRO:g} at delta {privacy.delta:g} for {whom}, "
        f"against everybody else, after {privacy.releases} releases; {clip} {privacy.clip_u / MICRO:g}, "
        f"noise multiplier {privacy.noise_u / MICRO:g}{sampling}"
    )


def _sum_sentence(privacy: PrivacySpec) -> str:
    """The promise of a private sum: against whom it holds stands before against whom it does not."""
    alone = epsilon_alone(privacy.release, privacy.releases, privacy.delta)
    return (
        f"private sum: epsilon {privacy.epsilon_u / MICRO:g} at delta {privacy.delta:g} for one record of one member "
        f"(add or remove), against whoever listens and up to {privacy.colluders} of the {privacy.members} members "
        f"together, after {privacy.releases} releases; against more of them only epsilon {alone:.4g}; clip "
        f"{privacy.clip_u / MICRO:g}, noise multiplier {privacy.noise_u / MICRO:g} and {privacy.pair_u / MICRO:g} for "
        f"each pair, gradients over {privacy.records} records; every member is trusted to follow the protocol: nothing "
        "is screened, no robustness is claimed"
    )


def member_lines(opened: Opened) -> list[Line]:
    """One line per member: has it signed, who, which log, how many neighbors."""
    charter = opened.charter
    width = max(len(member.name) for member in charter.members)
    lines: list[Line] = []
    for member in charter.members:
        signed = member.log_id in opened.signed
        text = (
            f"  {'signed  ' if signed else 'unsigned'}  {member.name:{width}}  {fingerprint(member.log_id)}  "
            f"{len(charter.neighbors(member.log_id))} neighbors"
        )
        lines.append(text if signed else Styled(text, "warn"))
    return lines


def signature_line(opened: Opened) -> Line:
    """How far the signing has come."""
    total = len(opened.charter.members)
    if not opened.missing:
        return Styled(f"signed by all {total} members", "good")
    names = ", ".join(member.name for member in opened.missing)
    return Styled(f"signed by {len(opened.signed)} of {total} members, missing: {names}", "warn")


def when(t_ms: int) -> str:
    """A time as ISO 8601 in UTC; a time that no calendar has is given in milliseconds."""
    try:
        return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{t_ms} ms"


def _privacy_data(charter: Charter) -> dict[str, Any]:
    privacy = charter.privacy
    if not privacy.private:
        return {"mechanism": privacy.mechanism}
    return {
        "mechanism": privacy.mechanism,
        "unit": privacy.unit.label,
        "epsilon": privacy.epsilon_u / MICRO,
        "delta": privacy.delta,
        "clip": privacy.clip_u / MICRO,
        "noise_multiplier": privacy.noise_u / MICRO,
        "releases": privacy.releases,
        **(_sum_data(privacy) if privacy.unit == Unit.SUM else {}),
        **({"sampling_rate": privacy.rate_ppm / PPM, "steps": privacy.steps} if privacy.sampled else {}),
    }


def _sum_data(privacy: PrivacySpec) -> dict[str, Any]:
    return {
        "pair_multiplier": privacy.pair_u / MICRO,
        "members": privacy.members,
        "colluders": privacy.colluders,
        "records": privacy.records,
        "epsilon_alone": epsilon_alone(privacy.release, privacy.releases, privacy.delta),
    }
