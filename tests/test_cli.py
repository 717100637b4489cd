"""The frame of the command line: flags, envelope, exit codes, errors, and what is never imported."""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto import errors
from quidnunc.crypto.errors import Reason
from quidnunc.gossip.markup import escape
from quidnunc.peer import cli, output
from quidnunc.peer.cli import CommandParser, Context, Group
from quidnunc.peer.client import NotReachable
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import default_home
from quidnunc.peer.naming import base58, fingerprint, peer_id
from quidnunc.peer.output import ExitCode, Outcome, Output, Styled, error_id_of, exit_code_of

HEAVY = {"torch", "libp2p", "numpy", "sklearn", "networkx", "trio", "dp_accounting", "asyncio"}


class Stage:
    """A command group whose one command does what a test says."""

    def __init__(self) -> None:
        self.play: Any = lambda args, context: Outcome("played", ["played"])

    def register(self, parser: CommandParser) -> None:
        parser.add_argument("--flag", action="store_true")
        parser.set_defaults(command=lambda args, context: self.play(args, context))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage()
    module = ModuleType("quidnunc_test_stage")
    module.register = made.register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "quidnunc_test_stage", module)
    monkeypatch.setattr(cli, "GROUPS", (*cli.GROUPS, Group("stage", "a test", "quidnunc_test_stage")))
    return made


def raising(error: BaseException) -> Any:
    def play(args: argparse.Namespace, context: Context) -> Outcome:
        raise error

    return play


# Flags.


def test_global_flags_stand_before_or_after_the_verb(stage: Stage, tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    def play(args: argparse.Namespace, context: Context) -> Outcome:
        out = context.out
        seen.append(
            (context.home.root, out.json, out.quiet, out.verbose, context.yes, context.no_input, context.timeout_s)
        )
        return Outcome("played")

    stage.play = play
    flags = ["--home", str(tmp_path), "--json", "-q", "-v", "--yes", "--no-input", "--timeout", "2.5", "--no-color"]
    for words in ([*flags, "stage"], ["stage", *flags], [*flags[:3], "stage", *flags[3:]]):
        assert quidnunc(*words).code == 0
    assert seen == [(tmp_path, True, True, 1, True, True, 2.5)] * 3


def test_flags_of_the_innermost_verb_win_and_defaults_do_not_overwrite(tmp_path: Path) -> None:
    make_home(tmp_path / "a", "A")
    outer = quidnunc("--home", tmp_path / "a", "ledger", "status", "--json")
    inner = quidnunc("ledger", "status", "--home", tmp_path / "a", "--json")
    middle = quidnunc("ledger", "--home", tmp_path / "a", "--json", "status")
    assert outer.data == inner.data == middle.data


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["ledgr"], "no such command: 'ledgr'", "did you mean ledger?"),
        (["frobnicate"], "no such command: 'frobnicate'", "there are: "),
        ([], "no command given", "quidnunc --help"),
        (["version", "--bogus"], "unrecognized arguments: --bogus", "usage: quidnunc"),
        (["version", "--jso"], "unrecognized arguments: --jso", "usage: quidnunc"),
        (["ledger"], "the following arguments are required: ACTION", "usage: quidnunc ledger"),
        (["ledger", "burn"], "argument ACTION: invalid choice: 'burn'", "usage: quidnunc ledger"),
        (["ledger", "show"], "the following arguments are required: REF", "usage: quidnunc ledger show"),
        (["ledger", "log", "-n", "x"], "argument -n: invalid int value: 'x'", "usage: quidnunc ledger log"),
        (["version", "--timeout", "0"], "argument --timeout: '0' is not a number of seconds", "usage: "),
        (["version", "--timeout", "nan"], "argument --timeout: 'nan' is not a number of seconds", "usage: "),
        (["federation", "create"], "the following arguments are required: CARD", "usage: quidnunc federation create"),
    ],
)
def test_usage_errors(words: list[str], message: str, hint: str) -> None:
    plain = quidnunc(*words)
    assert (plain.code, plain.out) == (2, "")
    assert plain.err.startswith(f"error: {message}")
    assert f"hint: {hint}" in plain.err
    for where in (["--json", *words], [*words, "--json"]):
        found = quidnunc(*where)
        assert found.envelope["error"]["message"].startswith(message)
        assert found.envelope["error"]["id"] == "usage_error"
        assert found.code == 2


def test_help_and_version() -> None:
    for words in (["--help"], ["-h"], ["ledger", "--help"], ["federation", "create", "-h"]):
        result = quidnunc(*words)
        assert result.code == 0
        assert result.out.startswith("usage: quidnunc")
        assert result.err == ""
    assert quidnunc("--version").out == quidnunc("version").out
    data = quidnunc("--version", "--json").data
    assert data == quidnunc("version", "--json").data
    assert set(data) == {
        "app",
        "protocol",
        "ledger_format",
        "charter_format",
        "config_format",
        "journal_format",
        "python",
    }
    listed = quidnunc("--help").out
    assert all(f"\n    {group.name}" in listed for group in cli.GROUPS)


def test_the_home_comes_from_flag_environment_or_data_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUIDNUNC_HOME", str(tmp_path / "env"))
    assert default_home() == str(tmp_path / "env")
    assert str(tmp_path / "env") in quidnunc("id").err
    assert str(tmp_path / "flag") in quidnunc("id", "--home", tmp_path / "flag").err
    monkeypatch.delenv("QUIDNUNC_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert default_home() == str(tmp_path / "xdg" / "quidnunc")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_home() == str(Path("~/.local/share/quidnunc").expanduser())


BAD_HOMES = [
    ("x" * 300, 64),
    ("/tmp/" + "y" * 256, 64),
    ("/tmp/" + "é" * 150, 64),
    ("/tmp/" + "d/" * 3000, 64),
    ("/dev/null", 64),
    ("/proc/zz", 73),
    ("/proc/zz/deeper", 73),
    ("/dev/null/deeper", 73),
    ("/tmp/quidnunc-\udcff\udcfe", 64),
    ("/tmp/quidnunc\0zero", 64),
    ("~nobody-of-this-name/home", 64),
]
VERBS = (
    *(
        ["run"],
        ["run", "--check"],
        ["status"],
        ["peers"],
        ["pause"],
        ["resume"],
        ["id"],
        ["budget", "show"],
        ["federation", "show"],
    ),
    *(["budget", "forecast"], ["budget", "history"], ["pause"], ["resume"]),
    *(["ledger", "status"], ["ledger", "verify"], ["ledger", "fsck"], ["ledger", "log"]),
)


@pytest.mark.parametrize(("home", "code"), BAD_HOMES, ids=range(len(BAD_HOMES)))
def test_an_impossible_home_is_one_clean_error(
    home: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["init", "--name", "A"], *VERBS):
        result = quidnunc("--home", home, "--json", *words)
        error = result.envelope["error"]
        assert result.code == (code if words[0] == "init" else 64), (words, error)
        assert error["id"] in ("config_error", "store_unwritable")
        assert 0 < len(error["message"]) < 400
        assert result.err.count("error: ") == 1
        assert all(line.isprintable() for line in result.err.splitlines())
    assert quidnunc("--home", home, "--json", "demo").code in (2, 64, 73)
    assert list(tmp_path.iterdir()) == []


def test_a_home_of_bytes_that_are_no_text_is_one_clean_error(tmp_path: Path) -> None:
    home = os.fsencode(tmp_path) + b"/\xff\xfe"
    for option, variable in (([b"--home", home], {}), ([], {"QUIDNUNC_HOME": os.fsdecode(home)})):
        words: list[str | bytes] = [sys.executable, "-m", "quidnunc.peer", *option, "--json", "init", "--name", "A"]
        done = subprocess.run(words, env={**os.environ, **variable}, capture_output=True, check=False)
        assert (done.returncode, json.loads(done.stdout)["error"]["id"]) == (64, "config_error")
        assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_init_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *arguments: Any, **options: Any) -> None:
        raise errors.StoreUnwritable(f"{path}: cannot be written: no space left on device")

    monkeypatch.setattr("quidnunc.peer.commands.init.atomic_write", full)
    assert quidnunc("--home", tmp_path / "new" / "home", "init", "--name", "A").code == 73
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes").touch()
    assert quidnunc("--home", tmp_path / "kept", "init", "--name", "A").code == 73
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "notes"]
    monkeypatch.undo()
    (tmp_path / "kept" / "run").touch()
    assert quidnunc("--home", tmp_path / "kept", "init", "--name", "A").code == 64
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "notes", "run"]


@pytest.mark.parametrize(
    ("flag", "address"),
    [
        ("--listen", "/ip4/999.1.1.1/tcp/70000"),
        ("--listen", "/ip4/127.0.0.1/tcp/70000"),
        ("--listen", "/ip4/127.0.0.1/udp/4901"),
        ("--listen", "/dns/peer.example.org/tcp/4901"),
        ("--listen", "127.0.0.1:4901"),
        ("--announce", "/ip4/192.0.2.7/tcp/0"),
        ("--announce", "/ip4/192.0.2.7/udp/4901"),
        ("--announce", "/ip4/192.0.2.7/tcp/4901/p2p/12D3KooW"),
    ],
)
def test_init_refuses_an_address_at_once(tmp_path: Path, flag: str, address: str) -> None:
    result = quidnunc("--home", tmp_path / "a", "--json", "init", "--name", "A", flag, address)
    assert result.code == 64
    assert repr(address) in result.envelope["error"]["message"]
    assert result.envelope["error"]["hint"]
    assert list(tmp_path.iterdir()) == []


def test_status_says_when_the_daemon_is_starting(tmp_path: Path) -> None:
    make_home(tmp_path, "A")
    home = Home.at(tmp_path)
    for verb in ("status", "peers"):
        result = quidnunc("--home", tmp_path, "--json", verb)
        assert (result.code, result.envelope["error"]["id"]) == (3, "not_reachable")
        assert result.envelope["error"]["hint"] == f"start it: quidnunc --home {tmp_path} run"
    with home.lock():
        for verb in ("status", "peers"):
            result = quidnunc("--home", tmp_path, "--json", verb)
            assert (result.code, result.envelope["error"]["id"]) == (11, "starting")
            assert result.envelope["error"]["message"].startswith(f"starting (process {os.getpid()})")
            assert "start it" not in result.envelope["error"]["hint"]
        # A socket left by one that was killed: the next one is starting.
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(home.prepare_socket()))
        assert quidnunc("--home", tmp_path, "status").code == 11
        # One that took the call and says nothing is not starting.
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(home.prepare_socket()))
            silent.listen()
            assert quidnunc("--home", tmp_path, "--timeout", "0.1", "status").code == 3
    assert quidnunc("--home", tmp_path, "status").code == 3


# Endings.

ERRORS: list[tuple[errors.QuidnuncError, int, str]] = [
    (errors.LedgerCorrupt(7, "is missing"), 65, "ledger_corrupt"),
    (errors.BlobLost(bytes(32), "the own replica"), 65, "blob_lost"),
    (errors.LedgerBehind(3, 5, 4), 65, "ledger_behind"),
    (errors.LedgerForked("one key, two histories"), 31, "ledger_forked"),
    (errors.LogRetired("this log has ended"), 40, "log_retired"),
    (errors.KeyFileError("others may read it", hint="chmod 600"), 77, "key_file_error"),
    (errors.ConfigError("no such key"), 64, "config_error"),
    (errors.CharterError("not canonical"), 64, "charter_error"),
    (errors.CharterUnsigned("signed by 1 of 2"), 41, "charter_unsigned"),
    (errors.SchemaMismatch("another model"), 51, "schema_mismatch"),
    (errors.BudgetExhausted("no epsilon left"), 50, "budget_exhausted"),
    (errors.JournalCorrupt(7, "its size is not the one that was written"), 65, "journal_corrupt"),
    (errors.StoreLocked("in use"), 4, "store_locked"),
    (errors.StoreUnwritable("disk full"), 73, "store_unwritable"),
    (errors.StoreNewer("schema 9"), 78, "store_newer"),
    (errors.RemoteProtocolError(Reason.BAD_SIGNATURE, "not signed"), 30, "bad_signature"),
    (errors.Malformed("not msgpack"), 30, "malformed"),
    (errors.LocalProtocolError("a bug"), 1, "local_protocol_error"),
    (output.UsageError("no"), 2, "usage_error"),
]


@pytest.mark.parametrize(("error", "code", "identifier"), ERRORS, ids=lambda value: getattr(value, "message", None))
def test_every_error_class_has_its_exit_code(
    stage: Stage, error: errors.QuidnuncError, code: int, identifier: str
) -> None:
    stage.play = raising(error)
    plain = quidnunc("stage")
    assert (plain.code, plain.out) == (code, "")
    assert plain.err == f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    found = quidnunc("stage", "--json")
    expected = {"id": identifier, "message": error.message, "hint": error.hint}
    assert found.envelope == {"v": 1, "ok": False, "code": code, "data": None, "warnings": [], "error": expected}
    assert (exit_code_of(error), error_id_of(error)) == (code, identifier)


def test_no_error_class_is_forgotten() -> None:
    def leaves(kind: type[errors.QuidnuncError]) -> Iterator[type[errors.QuidnuncError]]:
        yield kind
        for each in kind.__subclasses__():
            yield from leaves(each)

    ours = {kind for kind in leaves(errors.QuidnuncError) if kind.__module__ == errors.__name__}
    assert ours - {type(error) for error, _, _ in ERRORS} == {
        errors.QuidnuncError,
        errors.LedgerError,
        errors.StoreError,
    }


def test_a_daemon_that_does_not_answer_ends_with_3(tmp_path: Path) -> None:
    make_home(tmp_path / "a", "A")
    assert quidnunc("--home", tmp_path / "a", "status").code == 3
    assert exit_code_of(NotReachable("no daemon")) == 3


def test_a_result_with_a_failure_code_has_data_and_error(stage: Stage) -> None:
    stage.play = lambda args, context: Outcome({"n": 1}, ["one"], ExitCode.VERIFY_FAILED, "entry 1 is bad", "restore")
    plain = quidnunc("stage")
    assert (plain.code, plain.out, plain.err) == (30, "one\n", "error: entry 1 is bad\nhint: restore\n")
    found = quidnunc("stage", "--json").envelope
    assert (found["data"], found["error"]["id"], found["error"]["hint"]) == ({"n": 1}, "verify_failed", "restore")


def test_a_code_without_a_message_is_a_state_and_no_error(stage: Stage) -> None:
    stage.play = lambda args, context: Outcome("state", ["paused"], ExitCode.PENDING)
    assert quidnunc("stage").err == ""
    assert quidnunc("stage", "--json").envelope["error"] is None


def test_an_interrupt_ends_with_130(stage: Stage) -> None:
    stage.play = raising(KeyboardInterrupt())
    assert quidnunc("stage").code == 130
    assert quidnunc("stage", "--json").envelope["error"]["id"] == "interrupted"


def test_groups_of_exceptions_show_what_really_happened(stage: Stage) -> None:
    inner = ExceptionGroup("inner", [ValueError("x"), errors.StoreLocked("in use by process 7")])
    stage.play = raising(ExceptionGroup("outer", [RuntimeError("y"), inner]))
    result = quidnunc("stage")
    assert (result.code, result.err) == (4, "error: in use by process 7\n")
    stage.play = raising(BaseExceptionGroup("outer", [ValueError("x"), KeyboardInterrupt()]))
    assert quidnunc("stage").code == 130
    stage.play = raising(ExceptionGroup("outer", [ExceptionGroup("inner", [ZeroDivisionError("by 0")])]))
    assert quidnunc("stage").err.startswith("error: ZeroDivisionError: by 0\n")


def test_a_bug_is_kept_in_the_home_and_never_shown_bare(stage: Stage, tmp_path: Path) -> None:
    make_home(tmp_path / "a", "A")
    stage.play = raising(ZeroDivisionError("secret \x1b[31m"))
    result = quidnunc("--home", tmp_path / "a", "stage")
    assert result.code == 1
    assert "Traceback" not in result.err
    assert "\x1b" not in result.err
    (kept,) = (tmp_path / "a").glob("quidnunc-error-*.txt")
    assert str(kept) in result.err
    assert "ZeroDivisionError" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    loud = quidnunc("-v", "--home", tmp_path / "a", "stage")
    assert "Traceback" in loud.err
    assert quidnunc("stage", "--json", "--home", tmp_path / "a").envelope["error"]["id"] == "unexpected"


def test_details_of_our_own_errors_need_v(stage: Stage) -> None:
    stage.play = raising(errors.ConfigError("wrong"))
    assert "Traceback" not in quidnunc("stage").err
    assert "Traceback" in quidnunc("stage", "-v").err


# What is printed.


def test_talk_goes_to_stderr_and_quiet_silences_it(stage: Stage) -> None:
    def play(args: argparse.Namespace, context: Context) -> Outcome:
        context.out.talk("thinking")
        context.out.detail("hard")
        context.out.warn("careful")
        return Outcome("done", ["done"])

    stage.play = play
    assert quidnunc("stage") == output_of("done\n", "thinking\nwarning: careful\n")
    assert quidnunc("stage", "-q") == output_of("done\n", "warning: careful\n")
    assert "hard" in quidnunc("stage", "-v").err
    assert quidnunc("stage", "--json").envelope["warnings"] == ["careful"]


def output_of(out: str, err: str) -> Any:
    from cli_helpers import Result

    return Result(0, out, err)


def test_what_others_wrote_cannot_steer_the_terminal(stage: Stage) -> None:
    name = "a\x1b[2J\r\nb\u202e\u200b\x07\ud800"
    stage.play = lambda args, context: Outcome({"name": name}, [name, Styled(name, "bad")])
    plain = quidnunc("stage")
    assert plain.out == "a\\x1b[2J\\r\\nb\\u202e\\u200b\\x07\\ud800\n" * 2
    raw = quidnunc("stage", "--json")
    assert raw.out.strip().isprintable()
    assert raw.out.isascii()
    assert raw.data == {"name": name}
    stage.play = raising(errors.ConfigError(name, hint=name))
    assert quidnunc("stage").err.replace("\n", "").isprintable()


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=50))
def test_escaped_text_is_printable_and_harmless_text_is_itself(text: str) -> None:
    assert escape(text).isprintable()
    if text.isprintable():
        assert escape(text) == text


def test_colors_need_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.wants_color(Terminal(), disabled=False)
    assert not output.wants_color(Terminal(), disabled=True)
    assert not output.wants_color(io.StringIO(), disabled=False)
    monkeypatch.setenv("TERM", "dumb")
    assert not output.wants_color(Terminal(), disabled=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.wants_color(Terminal(), disabled=False)
    shown = io.StringIO()
    Output(color=True, stdout=shown).finish(Outcome(lines=[Styled("good \x1b", "good"), "plain"]))
    assert shown.getvalue() == "\x1b[32mgood \\x1b\x1b[0m\nplain\n"


def test_streams_are_json_lines() -> None:
    shown = io.StringIO()
    out = Output(json=True, stdout=shown)
    out.record({"round": 1, "hash": b"\x01\xff"})
    out.record({"round": 2})
    assert [json.loads(line) for line in shown.getvalue().splitlines()] == [{"round": 1, "hash": "01ff"}, {"round": 2}]
    with pytest.raises(TypeError):
        out.record({"x": object()})
    with pytest.raises(ValueError, match="Out of range"):
        out.record({"x": float("nan")})


# Real processes.


def shell(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-P", *words], capture_output=True, text=True, env=environment, timeout=60, check=False, **more
    )


SPY = """
import sys, runpy
from quidnunc.peer.cli import main
code = main(sys.argv[1:])
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "a"
    make_home(path, "Hospital A")
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["version", "--json"],
        ["--help"],
        ["id"],
        ["ledger", "status"],
        ["ledger", "log"],
        ["ledger", "verify"],
        ["ledger", "fsck"],
        ["budget", "show"],
        ["budget", "history"],
        ["budget", "forecast"],
        ["federation", "show", "CHARTER"],
        ["federation", "verify", "CHARTER"],
        ["status"],
        ["init", "--name", "again"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(home: Path, words: list[str]) -> None:
    from founders import charter

    from quidnunc.gossip.federation.founding import draft_note

    path = home / "a-charter.note"
    path.write_bytes(draft_note(charter(3)))
    words = [str(path) if word == "CHARTER" else word for word in words]
    result = shell("-c", SPY, "--home", str(home), *words)
    assert "Traceback" not in result.stderr
    modules = set(result.stderr.splitlines()[-1].split())
    assert "quidnunc" in modules
    assert not modules & HEAVY


def test_a_closed_pipe_is_no_error(home: Path) -> None:
    script = f"{sys.executable} -P -m quidnunc.peer.cli --home {home} id --json | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_a_broken_pipe_that_is_not_our_output_is_a_bug(stage: Stage) -> None:
    stage.play = raising(BrokenPipeError("to somebody else"))
    assert quidnunc("stage").code == 1


def test_a_terminal_without_unicode_is_no_error(tmp_path: Path) -> None:
    make_home(tmp_path / "u", "Université 病院")
    result = shell(
        *("-m", "quidnunc.peer.cli", "--home", str(tmp_path / "u"), "id"),
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert result.returncode == 0
    assert "Universit\\xe9 \\u75c5\\u9662" in result.stdout


# Names.


def test_base58_known_answers() -> None:
    # The draft RFC "The Base58 Encoding Scheme" (draft-msporny-base58), section 5.
    assert base58(b"Hello World!") == "2NEpo7TZRRrLZSi2U"
    assert base58(b"The quick brown fox jumps over the lazy dog.") == (
        "USm3fpXnKG5EUBx2ndxBDMPVciP5hGey2Jh4NDv6gmeo1LkMeiKrLJUUBk6Z"
    )
    assert base58(bytes.fromhex("0000287fb4cd")) == "11233QC4"
    assert base58(b"") == ""


@settings(deadline=None, max_examples=50)
@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_are_those_of_libp2p(seed: bytes) -> None:
    from libp2p.crypto.ed25519 import Ed25519PrivateKey
    from libp2p.peer.id import ID

    public = Ed25519PrivateKey.from_bytes(seed).get_public_key()
    assert peer_id(public.to_bytes()) == ID.from_pubkey(public).to_base58()


def test_fingerprints_are_the_beginning_of_the_log_id() -> None:
    assert fingerprint(bytes(range(32))) == "0001 0203 0405 0607 0809 0a0b 0c0d 0e0f"
