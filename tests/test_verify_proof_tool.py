"""tools/verify_proof.py, written from docs/wire.md alone, agrees with the program on good and bad proofs."""

from __future__ import annotations

import ast
import base64
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fuzzing import SEED, mutate
from histories import History, cosigned, key_of, witness

from quidnunc.crypto.checkpoint import witness_verifier
from quidnunc.crypto.encoding import encode
from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.crypto.note import format_vkey
from quidnunc.crypto.policy import Witness, flat_policy, judge
from quidnunc.crypto.proof_file import ENTRY_TAG, entry_proof, open_proof

TOOL = Path(__file__).resolve().parent.parent / "tools" / "verify_proof.py"
LOG = History("clinic").grow(40)
NAMES = ("b", "c", "d")
WITNESSES = [Witness(name, witness_verifier(witness(name)[0], witness(name)[1].public)) for name in NAMES]
POLICY = flat_policy(LOG.verifier, WITNESSES, 2)
MUTATED = 900


def proof(seq: int, size: int, names: str = "", log: History = LOG) -> bytes:
    note = cosigned(log.note(size), *names)
    return entry_proof(log.entries[seq], log.log.inclusion(seq, size), note, index=seq)


def good() -> list[bytes]:
    sizes = [(seq, size) for size in range(1, 41, 3) for seq in range(0, size, 5)]
    found = [
        proof(seq, size, names) for (seq, size), names in zip(sizes, ["", "b", "bc", "bcd", "xbc"] * 99, strict=False)
    ]
    erased = LOG.entries[13]._replace(payload=b"", salt=b"")
    return [*found, entry_proof(erased, LOG.log.inclusion(13, 37), cosigned(LOG.note(37), "b", "c"), index=13)]


def bad() -> list[bytes]:
    """Proofs wrong in a way that somebody would try."""
    data, other = proof(13, 37, "bc"), History("other").grow(40)
    head, _, note = data.partition(b"\n\n")
    lines = head.split(b"\n")
    found = [b"", b"\n\n", note, head, data[:-1], data + b"\n", proof(13, 37, log=other), bytes(200_000)]
    path = LOG.log.inclusion(13, 37)
    entry = LOG.entries[13]
    for wrong in (path[1:], path[:-1], path[::-1], [*path, bytes(32)], [], LOG.log.inclusion(12, 37), [bytes(32)] * 63):
        found.append(entry_proof(entry, wrong, LOG.note(37), index=13))
    forked = LOG.fork(13).grow(27, "forked")
    for bad_note in (
        LOG.note(36),
        LOG.note(13),
        LOG.note(0),
        forked.note(37),
        other.note(37),
        LOG.note(37, key_of("x")),
    ):
        found.append(entry_proof(entry, path, bad_note, index=13))
    for wrong_entry in (LOG.entries[12], forked.entries[13], other.entries[13], entry._replace(payload=b"x")):
        found.append(entry_proof(wrong_entry, path, LOG.note(37), index=13))
    for index in (b"", b"12", b"14", b"013", b"-13", b"+13", b"13 ", b"9" * 30, str(2**63 - 1).encode(), "١٣".encode()):
        found.append(data.replace(b"index 13", b"index " + index))
    for extra in (
        [],
        [ENTRY_TAG],
        [ENTRY_TAG, entry.header, entry.payload, None],
        [ENTRY_TAG, *entry[:3], 1],
        {"a": 1},
    ):
        line = b"extra " + base64.b64encode(encode(extra))
        found.append(b"\n".join([lines[0], line, *lines[2:]]) + b"\n\n" + note)
    # A cosignature of another checkpoint, moved here.
    moved = cosigned(LOG.note(36), "b").split(b"\n")[-2]
    found.append(data.replace(data.split(b"\n")[-3], moved))
    return found


def mutated(seed: int) -> list[bytes]:
    rng = random.Random(f"tool {seed}")
    valid = good()
    return [mutate(valid[number % len(valid)], valid, rng) for number in range(MUTATED)]


def expected(data: bytes) -> int:
    """What the program says: 0, 30 or 32."""
    try:
        opened = open_proof(data, POLICY.logs)
        verdict = judge(opened.note, POLICY)
    except RemoteProtocolError:
        return 30
    return 0 if verdict.met and opened.payload is not None else 32


def said(corpus: list[bytes], folder: Path) -> tuple[int, list[int]]:
    """The exit code of the tool on a folder of files, and what it says of each, without quidnunc at hand."""
    paths = [folder / f"{number:04}.tlog-proof" for number in range(len(corpus))]
    for path, data in zip(paths, corpus, strict=True):
        path.write_bytes(data)
    isolated = (
        "import sys, runpy\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('quidnunc', 'msgpack'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"sys.argv[0] = {str(TOOL)!r}\n"
        f"runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
    )
    words = ["--log", format_vkey(LOG.verifier), "--quorum", "2"]
    words += [word for each in WITNESSES for word in ("--witness", format_vkey(each.verifier))]
    done = subprocess.run(
        [sys.executable, "-c", isolated, *words, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert not done.stderr, done.stderr
    return done.returncode, [int(line.split("\t")[0]) for line in done.stdout.splitlines()]


def test_it_is_small_and_stands_alone() -> None:
    text = TOOL.read_text("utf-8")
    assert len(text.splitlines()) <= 200
    roots = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(str(node.module).split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"nacl"}


@pytest.mark.parametrize("seed", [SEED])
def test_both_agree_on_every_proof(tmp_path: Path, seed: int) -> None:
    corpus = [*good(), *bad(), *mutated(seed)]
    wanted = [expected(data) for data in corpus]
    code, found = said(corpus, tmp_path)
    differing = [number for number, pair in enumerate(zip(wanted, found, strict=True)) if pair[0] != pair[1]]
    assert not differing, [(wanted[n], found[n], corpus[n]) for n in differing[:3]]
    counts = Counter(wanted)
    assert counts[30] >= 100
    assert min(counts[0], counts[32]) >= 20
    assert all(wanted[number] == 30 for number in range(len(good()), len(good()) + len(bad())))
    assert code == 30


def run(folder: Path, *words: object) -> tuple[int, str, str]:
    command = [sys.executable, TOOL, "--log", format_vkey(LOG.verifier), *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=folder, timeout=30)
    return done.returncode, done.stdout, done.stderr


def test_what_is_no_file_proves_nothing_and_ends_no_run(tmp_path: Path) -> None:
    """Regression: a missing file ended in a traceback, and a pipe never."""
    (tmp_path / "good").write_bytes(proof(13, 37, "bc"))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    code, out, err = run(tmp_path, "missing", "folder", "pipe", "/dev/null", "good")
    assert (code, err) == (30, "")
    assert [line.split("\t")[0] for line in out.splitlines()] == ["30", "30", "30", "30", "0"]


def test_one_witness_named_twice_is_one_and_a_quorum_is_a_small_number(tmp_path: Path) -> None:
    """Regression: it made up a quorum of two, and -1 was one as well."""
    (tmp_path / "proof").write_bytes(proof(13, 37, "b"))
    twice = ["--witness", format_vkey(WITNESSES[0].verifier)] * 2
    code, out, _ = run(tmp_path, *twice, "--quorum", "2", "proof")
    assert (code, "1 of 1 witnesses" in out) == (32, True)
    assert run(tmp_path, *twice, "--quorum", "1", "proof")[0] == 0
    for quorum in ("-1", "65", "9" * 40, "x"):
        assert run(tmp_path, *twice, "--quorum", quorum, "proof")[0] == 2


def test_exit_codes_of_good_and_of_incomplete_proofs(tmp_path: Path) -> None:
    assert said([proof(13, 37, "bc"), proof(0, 1, "bcd")], tmp_path) == (0, [0, 0])
    assert said([proof(13, 37, "bc"), proof(13, 37, "b")], tmp_path) == (32, [0, 32])
