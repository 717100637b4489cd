"""What training will cost in privacy, asked of the compute process before a daemon trains.

Sampled releases take a numerical accountant (dp-accounting, with numpy and scipy) that this process never loads.
"""

from __future__ import annotations

from typing import Any

import trio

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.jobs import Accounted, JobFailed, Spent
from quidnunc.gossip.rebuild import account_job
from quidnunc.gossip.resume import fold
from quidnunc.peer.ledger.store import Store


class PrivacyRefused(ConfigError):
    """The charter's privacy cannot be kept, or not be counted."""


async def account(computer: Any, charter: Charter, store: Store, elsewhere: Spent = ()) -> Accounted | None:
    """What further releases will cost, where that takes the numerical accountant of the compute process.

    ``elsewhere`` is what other homes have spent of the same records.

    Raises PrivacyRefused when it cannot say, and when the charter's noise does not keep the charter's promise.
    """
    privacy = charter.privacy
    if not privacy.private:
        return None
    resume = await trio.to_thread.run_sync(lambda: fold(store.entries()))
    job = account_job(charter, resume, elsewhere)
    if job is None:
        return None
    result = await computer.run(job)
    if not isinstance(result, Accounted):
        why = result.why if isinstance(result, JobFailed) else repr(result)
        raise PrivacyRefused(
            f"what training costs in privacy cannot be computed: {why}", hint="install dp-accounting beside quidnunc"
        )
    if privacy.sampled and result.alone_u > privacy.epsilon_u:
        raise PrivacyRefused(
            f"privacy: {privacy.releases} releases at noise multiplier {privacy.noise_u / 1e6:g} cost epsilon "
            f"{result.alone_u / 1e6:.4g} at delta {privacy.delta:g}, the charter promises {privacy.epsilon_u / 1e6:g}",
            hint="draft it again with federation create: it computes the noise",
        )
    return result
