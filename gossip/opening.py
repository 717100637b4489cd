"""What a log begins with, and what every start of its peer adds: genesis, the charter adopted, ``node.start``."""

from __future__ import annotations

from quidnunc.crypto.entry import EntryType
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.provenance import CharterAdopt, NodeStart
from quidnunc.gossip.rebuild import Self
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.resume import Resume


def record_start(charter: Charter, own: Self, resume: Resume, recorder: Recorder, now: float) -> None:
    """Append the first entries of a fresh log, the charter if it is another than before, and one ``node.start``."""
    if recorder.size == 0:
        recorder.append_raw(EntryType.GENESIS, own.genesis, now)
    if resume.charter != charter.federation_id:
        adopt = CharterAdopt(
            charter=charter.federation_id,
            epoch=charter.epoch,
            witnesses=tuple(m.log_id for m in charter.members if m.log_id != own.log_id),
            quorum=charter.quorum,
            signatures=own.charter_note,
        )
        recorder.append(adopt, now)
    here = own.software
    recorder.append(NodeStart(resume.incarnation + 1, here.version, here.python, here.torch, here.device), now)
