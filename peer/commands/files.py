"""Reading and writing the files that are named on the command line or passed from hand to hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.federation.card import CARD_BYTES, open_card
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.founding import NOTE_BYTES, Opened, open_charter, require_signed
from quidnunc.gossip.federation.member import Member
from quidnunc.peer.files import atomic_write, expanded, read_capped
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.new_file import write_new
from quidnunc.peer.output import ExitCode, Output, UsageError

PUBLIC_FILE = 0o644
CHARTER_NAME = "charter.note"

T = TypeVar("T")


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a file of at most ``limit``; raises ConfigError naming the file and what is wrong."""
    try:
        return read_capped(path, limit)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {(error.strerror or type(error).__name__).lower()}",
            hint="check the path and who may read it",
        ) from None


def replace_public(path: Path, data: bytes) -> None:
    """Put a file that is meant to be handed on at ``path``, in place of its earlier form; raises StoreUnwritable."""
    atomic_write(expanded(path).absolute(), data, PUBLIC_FILE)


def write_public(path: Path, data: bytes) -> None:
    """Make a new file that is meant to be handed on at ``path``, whole or not at all.

    Raises ConfigError when something is there already, StoreUnwritable, UsageError for ``-``.
    """
    if str(path) == "-":
        raise UsageError("- means stdout, which has something else to say here", hint="name a file; one called -: ./-")
    write_new(expanded(path).absolute(), data, PUBLIC_FILE)


def is_stdout(path: Path | None, out: Output, flag: str = "--out") -> bool:
    """Whether a file that is to be written is ``-``, which means stdout; raises UsageError where that is taken."""
    if path is None or str(path) != "-":
        return False
    if out.json:
        raise UsageError(f"{flag} - and --json both want stdout", hint=f"name a file with {flag}")
    return True


def same_file(one: Path, other: Path) -> bool:
    """Whether both name one file that is there."""
    try:
        return expanded(one).samefile(expanded(other))
    except (OSError, ValueError):
        return False


def read_card(path: Path) -> Member:
    """The member whose card lies at ``path``; raises ConfigError or CharterError, naming the file."""
    return _named(path, open_card, read_file(path, CARD_BYTES))


def read_cards(paths: Sequence[Path]) -> tuple[Member, ...]:
    """The members whose cards lie at ``paths``, in the order of a charter.

    Raises ConfigError or CharterError, naming the file, and UsageError where one member is named twice.
    """
    found: dict[bytes, tuple[Member, Path]] = {}
    for path in paths:
        member = read_card(path)
        if member.log_id in found:
            raise UsageError(
                f"{path}: the card of {member.name} is named already, as {found[member.log_id][1]}",
                hint="name every founder's card once",
            )
        found[member.log_id] = member, path
    return tuple(found[log_id][0] for log_id in sorted(found))


def read_charter(path: Path) -> tuple[bytes, Opened]:
    """The charter note at ``path``, as bytes and opened; raises ConfigError or CharterError, naming the file."""
    data = read_charter_note(path)
    return data, _named(path, open_charter, data)


def read_charter_note(path: Path) -> bytes:
    """The bytes of the charter note at ``path``; raises ConfigError, or CharterError where a home lacks its charter."""
    if path.name == CHARTER_NAME and not path.exists() and Home.at(path.parent).exists():
        # It can open ledgers, and costs half of what `status` takes: only this error needs it.
        from quidnunc.peer.charter_file import missing_charter

        raise missing_charter(path)
    return read_file(path, NOTE_BYTES)


def own_card(home: Home) -> Member:
    """The member card of this home; raises ConfigError when there is no home here yet."""
    require_home(home)
    return present_card(home)


def present_card(home: Home) -> Member:
    """The member card that lies in a home or a bundle; raises CardMissing when there is none."""
    if not home.card.exists():
        raise CardMissing(
            f"{home.card}: not there; it says which keys are this peer's",
            hint="it is no secret: copy it back from a backup (tar xf FILE card.note), or from a member who has it",
        )
    return read_card(home.card)


class CardMissing(ConfigError):
    """A home without its card."""

    exit_code = ExitCode.INCOMPLETE


def require_home(home: Home) -> None:
    """Raise ConfigError unless ``quidnunc init`` has been here."""
    if not home.exists():
        raise ConfigError(f"{home.root}: no peer lives here", hint=f'make one with: {quidnunc(home)} init --name "..."')


def own_place(home: Home, charter: Charter) -> Member:
    """This home's place in ``charter``; raises CharterError when it has none or when the charter changed our keys."""
    mine = own_card(home)
    found = charter.member(mine.log_id)
    if found is None:
        raise CharterError(
            f"{mine.name} ({mine.log_id.hex()[:16]}) is not a member of charter {charter.federation_id.hex()[:16]}",
            hint="hand your card to the drafter, and sign the draft that lists you",
        )
    if found != mine:
        raise CharterError(
            f"charter {charter.federation_id.hex()[:16]} lists other keys, addresses or sizes for {mine.name} "
            f"than its card {home.card}",
            hint="hand your present card to the drafter, and sign the draft made from it",
        )
    return found


def check_federation(home: Home, charter: Charter) -> None:
    """Raise CharterError when this home belongs to another federation than that of ``charter`` already."""
    if not home.charter.exists():
        return
    present = read_charter(home.charter)[1].charter
    if present.federation_id != charter.federation_id:
        raise CharterError(
            f"{home.root} belongs to federation {present.federation_id.hex()[:16]} already",
            hint="a log is of one federation: go on in another home: quidnunc ledger succeed --reason moved --into DIR",
        )


def install_charter(home: Home, data: bytes, opened: Opened, source: Path, model: Path | None = None) -> None:
    """Make the note ``data``, read from ``source``, this home's charter. Again is no harm.

    The params of an earlier model come along if ``model`` names some, or if they lie beside ``source``. Raises
    CharterUnsigned unless everybody signed the charter, CharterError when it is not about this home as its card is,
    when the home has another charter, or when the params are not those that it names.
    """
    from quidnunc.peer.model_file import beside, install_model

    charter = require_signed(opened)
    own_place(home, charter)
    check_federation(home, charter)
    if model is None and beside(source).exists():
        model = beside(source)
    if model is not None:
        install_model(expanded(model), home, charter.task.genesis, charter.task.dim)
    replace_public(home.charter, data)


def _named(path: Path, parse: Callable[[bytes], T], data: bytes) -> T:
    try:
        return parse(data)
    except CharterError as error:
        raise CharterError(f"{path}: {error.message}", hint=error.hint) from None
