"""The one error tree of the project.

::

    QuidnuncError
    ├── ConfigError                 a file or flag of ours is wrong
    ├── KeyFileError                a key file is locked, doctored or readable by others
    ├── CharterError                a charter or card is not valid
    │   └── CharterUnsigned         ... or not signed by everybody it must be signed by
    ├── SchemaMismatch              our model is not the one the charter names
    ├── BudgetExhausted             the next step would exceed the privacy budget
    ├── LedgerError
    │   ├── LedgerCorrupt           our own disk contradicts itself: stop, never repair silently
    │   ├── LedgerForked            one key signed two histories
    │   └── BlobLost                params that our own ledger leads to are not on disk any more
    ├── JournalCorrupt              a daemon's journal is not as it was written
    ├── StoreError
    │   ├── StoreLocked             another process holds this home
    │   ├── StoreUnwritable         disk full, read-only, fsync failed
    │   └── StoreNewer              written by a later version of the program
    ├── RemoteProtocolError         bytes from outside are wrong; carries a stable reason code
    │   └── Malformed               ... they do not parse
    └── LocalProtocolError          misuse of our own interface: a bug

Messages are lower case without a full stop and name the thing, the value, the bound; ``hint`` names the remedy.
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why bytes from outside were refused. The numbers stand in signed ledger entries and never change."""

    MALFORMED = 1
    BAD_SIGNATURE = 2
    STRANGER = 3
    WRONG_FEDERATION = 4
    WRONG_SCHEMA = 5
    TOO_LARGE = 6
    STALE = 7
    FUTURE = 8
    HASH_MISMATCH = 9
    BAD_BASE = 10
    BAD_RESULT = 11
    NON_FINITE = 12
    BAD_SHAPE = 13
    BAD_CODEC = 14
    EQUIVOCATION = 15
    UNSOLICITED = 16
    DUPLICATE = 17
    QUARANTINED = 18
    NOT_NEIGHBOR = 19
    RATE_LIMITED = 20
    VERSION = 21
    RETIRED = 22

    @property
    def label(self) -> str:
        """The name as it stands in JSON and on the terminal, for example ``bad_signature``."""
        return self.name.lower()


NO_OLD_COPY = (
    "keep this home as it is, and restore the newest backup into an empty one: quidnunc --home DIR restore FILE; "
    "do not mend it with an older ledger.db by hand; without a backup: quidnunc ledger recover"
)
"""What to do about a ledger that is damaged or gone."""


class QuidnuncError(Exception):
    """Base of every error this project raises on purpose."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(QuidnuncError):
    """A configuration file, flag or input file of the user's is wrong."""


class KeyFileError(QuidnuncError):
    """A key file is missing, malformed, locked or readable by others."""


class CharterError(QuidnuncError):
    """A charter or a member card is malformed, inconsistent or not for the one at hand."""


class CharterUnsigned(CharterError):
    """A valid charter lacks signatures; the message names every member whose signature is missing."""


class SchemaMismatch(QuidnuncError):
    """The model built here is not the one the charter names."""


class BudgetExhausted(QuidnuncError):
    """The next release would exceed the privacy budget."""


class LedgerError(QuidnuncError):
    """A ledger does not hold what it must."""


class LogRetired(LedgerError):
    """This log was ended by its organization: nothing may be added to it."""


class LedgerCorrupt(LedgerError):
    """Our own ledger contradicts itself at ``seq``, or as a whole where that is below 0."""

    def __init__(self, seq: int, why: str, *, hint: str = "") -> None:
        place = f"ledger entry {seq}" if seq >= 0 else "ledger"
        super().__init__(f"{place}: {why}", hint=hint or NO_OLD_COPY)
        self.seq = seq
        self.why = why


class LedgerForked(LedgerError):
    """One key signed two histories."""


class LedgerBehind(LedgerError):
    """Our own key has signed ``known`` entries, our ledger holds ``had``, and no neighbor keeps entry ``lost``."""

    def __init__(self, had: int, known: int, lost: int) -> None:
        super().__init__(
            f"this ledger holds {had} entries, its key has signed {known}: it is an older copy, and no neighbor can "
            f"give entry {lost} back",
            hint="restore a newer backup; without one this log is at its end, and its members must found anew",
        )
        self.had, self.known, self.lost = had, known, lost


class BlobLost(LedgerError):
    """The blob ``name``, params that our own ledger leads to, is missing or damaged, and nothing here rebuilds it."""

    def __init__(self, name: bytes, what: str) -> None:
        digits = name.hex()
        super().__init__(
            f"state/blobs/{digits[:2]}/{digits[2:]} is missing or damaged: it holds {what}",
            hint="start again: neighbors are asked for it; else take this one file out of a backup (tar xf FILE NAME)",
        )
        self.name = name


class JournalCorrupt(QuidnuncError):
    """A journal is not as it was written at ``record``, the first being 1; 0 where it does not begin as one."""

    def __init__(self, record: int, why: str) -> None:
        place = f"journal record {record}" if record else "journal"
        super().__init__(f"{place}: {why}", hint="--until N replays the events before it" if record else "")
        self.record = record


class StoreError(QuidnuncError):
    """The state directory cannot be used."""


class StoreLocked(StoreError):
    """Another process holds the lock of this home."""


class StoreUnwritable(StoreError):
    """A write did not become durable: disk full, read-only file system or a failed fsync."""


class StoreNewer(StoreError):
    """The state was written by a later version of this program."""


class RemoteProtocolError(QuidnuncError):
    """Bytes from another party were refused for ``reason``; nothing of ours was changed."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Malformed(RemoteProtocolError):
    """Bytes do not parse strictly; raised for every malformed input, whatever its kind."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.MALFORMED, message)


class LocalProtocolError(QuidnuncError):
    """An interface of ours was misused: a bug on this side."""
