"""Event files for TensorBoard: byte by byte what its own writer makes, and the same for the same run."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from cli_helpers import quidnunc

from quidnunc.sim.report.tensorboard import FILE, crc32c, event_file
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.stored import Record

WRITTEN = bytes.fromhex(
    "1800000000000000a37f4b220900000000000000401a0d627261696e2e4576656e743a32ff2ee0e72300000000000000b09f"
    "774309000000000000004010022a160a140a0d61636375726163795f6d65616e150000003f6848a7814500000000000000eb"
    "e668b0090000000000c0724010ac022a370a140a0d61636375726163795f6d65616e150000203f0a0f0a086d657373616765"
    "7315000040410a0e0a07657073696c6f6e150000a03fb4b035d5"
)
"""By tensorboard 2.21.0: its file version and two rounds, through its protobuf classes and its RecordWriter."""

SCENARIO = {
    "name": "hit",
    "peers": 6,
    "rounds": 4,
    "evaluate_every": 2,
    "seeds": [3, 5],
    "data": {"source": "synthetic", "pool": 200, "features": 4, "classes": 3},
}


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_checksums_are_those_of_rfc_3720(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


def test_a_file_is_what_tensorboard_itself_writes() -> None:
    records = [
        Record(seed=1, round=2, accuracy_mean=0.5),
        Record(seed=1, round=300, accuracy_mean=0.625, messages=12, epsilon=1.25, accuracies=[0.5, 0.75]),
    ]
    assert event_file(records) == WRITTEN


def test_a_value_beyond_a_float_is_infinite() -> None:
    assert struct.pack("<f", float("inf")) in event_file([Record(seed=0, round=0, consensus_distance=1e300)])
    assert event_file([]) != b""


def test_they_are_written_on_request_and_are_the_same_for_the_same_run(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    run(SCENARIO, out=plain)
    assert not (plain / "tensorboard").exists()
    assert quidnunc("sim", "report", plain, "--tensorboard").code == 0
    scenario = tmp_path / "scenario.toml"
    data = SCENARIO["data"]
    assert isinstance(data, dict)
    top = "".join(f"{key} = {json.dumps(value)}\n" for key, value in SCENARIO.items() if key != "data")
    scenario.write_text(top + "[data]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in data.items()))
    other = tmp_path / "other"
    assert quidnunc("sim", "run", scenario, "--out", other, "--tensorboard").code == 0
    for seed in (3, 5):
        found = (plain / "tensorboard" / f"seed-{seed}" / FILE).read_bytes()
        assert found == (other / "tensorboard" / f"seed-{seed}" / FILE).read_bytes()
        assert b"accuracy_worst" in found
    assert {path.name for path in (other / "tensorboard").iterdir()} == {"seed-3", "seed-5"}


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    place = tmp_path / "run"
    run(SCENARIO, out=place)
    (place / "tensorboard").write_text("in the way")
    ended = quidnunc("sim", "report", place, "--tensorboard")
    assert ended.code == 73
    assert "cannot be written" in ended.err
