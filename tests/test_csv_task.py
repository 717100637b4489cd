"""The task ``csv``: four clinics whose models agree, real files, Parquet, and training in a real compute process."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trio  # noqa: F401  pytest-trio runs the last test
from cli_helpers import quidnunc
from four_sites import COLUMNS, ROWS, SCHEMA, SITES, rows, text_of, write
from heart_data import ROOT, heart
from heart_data import ROWS as HEART_ROWS
from learners import Scenario, run

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import (
    Described,
    DescribeJob,
    Evaluated,
    EvaluateJob,
    JobFailed,
    PrivacyStep,
    Trained,
    TrainJob,
)
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.builtin import BUILTIN, DEFAULTS
from quidnunc.gossip.learning.params import layout
from quidnunc.gossip.tabular.findings import Code, DataFault
from quidnunc.gossip.tabular.options import Options
from quidnunc.gossip.tabular.report import report
from quidnunc.gossip.tabular.schema import parse_schema
from quidnunc.gossip.tabular.table import LIMITS, Dialect, TableLimits
from quidnunc.gossip.task import Site, Task
from quidnunc.peer.compute import ComputeProcess
from quidnunc.peer.csv_task import csv_task, examine_file
from quidnunc.peer.pipe import Setup
from quidnunc.peer.table_file import load_table
from quidnunc.peer.task_loader import load_task

FEATURES = 9


def dim(task: Task) -> int:
    return layout(task.model())[-1].stop


def test_it_is_found_by_its_name() -> None:
    assert load_task("csv") is csv_task


def test_four_sites_have_one_model_and_their_own_rows(tmp_path: Path) -> None:
    paths = write(tmp_path)
    tasks = {site: csv_task(Site(path=str(path), schema=SCHEMA)) for site, path in paths.items()}
    for site, task in tasks.items():
        parts = (task.train, task.holdout, task.test)
        assert sum(len(inputs) for inputs, _ in parts) == ROWS[site]
        for inputs, targets in parts:
            assert inputs.shape[1] == FEATURES
            assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
            assert 0 <= float(inputs.min()) <= float(inputs.max()) <= 1
            assert set(targets.tolist()) <= {0, 1}
        assert dim(task) == 2 * FEATURES + 2
        again = csv_task(Site(path=str(paths[site]), schema=SCHEMA))
        assert torch.equal(task.train[0], again.train[0])
    shares = [float(task.train[1].double().mean()) for task in tasks.values()]
    assert max(shares) - min(shares) > 0.2, "the fixture's labels are skewed"


def test_a_charter_is_drafted_without_any_table() -> None:
    task = csv_task(Site(schema=SCHEMA, blank=True))
    assert [tuple(part[0].shape) for part in (task.train, task.holdout, task.test)] == [(1, FEATURES)] * 3
    assert not task.train[0].any()
    assert dim(task) == 2 * FEATURES + 2
    assert dim(csv_task(Site(schema=SCHEMA, blank=True, path="/nowhere"))) == dim(task)
    mlp = csv_task(Site(schema=SCHEMA, blank=True, options={"model": "mlp", "hidden": 5}))
    assert dim(mlp) == 5 * FEATURES + 5 + 2 * 5 + 2


def test_the_dialect_of_a_site_changes_nothing_but_the_reading(tmp_path: Path) -> None:
    found = rows("north")
    plain, foreign = tmp_path / "plain.csv", tmp_path / "foreign.csv"
    plain.write_text(text_of(found))
    for row in found:
        row["age"] = row["age"].replace(".", ",")
        row["sugar"] = row["sugar"] or "k.A."
    foreign.write_text(text_of(found, ";").replace("see file", "für später"), "cp1252")
    options: dict[str, str | int | float | bool] = {
        "delimiter": ";",
        "decimal": ",",
        "encoding": "cp1252",
        "missing": "k.A.",
    }
    one = csv_task(Site(path=str(plain), schema=SCHEMA))
    other = csv_task(Site(path=str(foreign), schema=SCHEMA, options=options))
    assert sum(len(task.train[0]) for task in (one, other)) == 2 * len(one.train[0])
    assert torch.equal(one.train[0], other.train[0])


@pytest.mark.parametrize(
    ("site", "message", "hint"),
    [
        (Site(schema=SCHEMA), "needs a table: data.path is empty", 'path = "..." under [data]'),
        (Site(), "needs a schema, or a table to infer one from", "data check FILE --write-schema"),
        (Site(blank=True), "needs a schema, or a table to infer one from", "data check FILE --write-schema"),
        (Site(path="/nowhere.csv", schema=SCHEMA), "/nowhere.csv: cannot be read: no such file", "check the path"),
        (Site(path="a\0b", schema=SCHEMA), "'a\\x00b': not a path", ""),
        (Site(path="/", schema=SCHEMA), "/: ", ""),
        (Site(path="/x", schema="version = 3"), "the charter's schema:1: version = 3", "version = 1"),
        (Site(path="/x", schema=SCHEMA, options={"delimeter": ";"}), "option 'delimeter'", "did you mean delimiter?"),
    ],
)
def test_mistakes_are_named(site: Site, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        csv_task(site)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_what_is_remarked_on_the_data_is_in_the_notes_warnings_first(tmp_path: Path) -> None:
    table = rows("north")
    for index, row in enumerate(table):
        row["age"] = "50"
        row["sugar"] = str((250 if row["readmitted"] == "yes" else 100) + index % 40)
    path = tmp_path / "t.csv"
    path.write_text(text_of(table))
    notes = csv_task(Site(path=str(path), schema=SCHEMA)).notes
    assert [note.split(":")[0] for note in notes] == ["column sugar", "column age"]
    assert "alone tells the target" in notes[0]
    write(tmp_path)
    assert csv_task(Site(path=str(tmp_path / "north.csv"), schema=SCHEMA)).notes == ()


def test_a_file_is_read_up_to_its_cap(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    assert load_table(path, Dialect(), TableLimits(bytes_max=8)).rows == 1
    with pytest.raises(DataFault, match="8 bytes, limit is 7") as raised:
        load_table(path, Dialect(), TableLimits(bytes_max=7))
    assert raised.value.finding.code == Code.TOO_LARGE
    assert raised.value.hint == "split or shorten the table"


def test_a_table_over_the_cap_is_too_large_for_the_check_too(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate(LIMITS.bytes_max + 1)
    result = quidnunc("data", "check", tmp_path / "t.csv")
    assert result.code == 20
    assert "t.csv: 268435457 bytes, limit is 268435456 [too_large]\nhint: split or shorten the table" in result.err


# The four hospitals.


@pytest.mark.parametrize("hospital", HEART_ROWS)
def test_the_hospitals_files_are_read_whole_and_without_findings(hospital: str) -> None:
    text = (ROOT / "examples" / "heart" / "schema.toml").read_text("utf-8")
    examined = examine_file(heart(hospital), parse_schema(text), Options())
    found = report(examined)
    assert (found.rows_read, found.rows_used) == (HEART_ROWS[hospital], HEART_ROWS[hospital])
    assert found.findings == ()
    assert min(found.parts.values()) >= 15
    task = csv_task(Site(path=str(heart(hospital)), schema=text))
    assert dim(task) == 2 * found.features + 2
    assert bool(torch.isfinite(task.train[0]).all())


def test_the_hospitals_schema_needs_no_hospital() -> None:
    text = (ROOT / "examples" / "heart" / "schema.toml").read_text("utf-8")
    schema = parse_schema(text)
    assert all(column.meaning for column in schema.columns)
    assert len(csv_task(Site(schema=text, blank=True)).train[0]) == 1


# Parquet.


def parquet(path: Path, columns: dict[str, list[object]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), path)
    return path


def typed(site: str) -> dict[str, list[object]]:
    """The rows of a site with numbers as numbers, wards as floats, and None for missing."""
    found = rows(site)
    columns: dict[str, list[object]] = {name: [row[name] or None for row in found] for name in COLUMNS}
    for name, kind in (("age", int), ("pressure", int), ("sugar", float), ("ward", float)):
        columns[name] = [None if cell is None else kind(float(str(cell))) for cell in columns[name]]
    return columns


def test_parquet_gives_the_inputs_that_csv_gives(tmp_path: Path) -> None:
    file = parquet(tmp_path / "north.parquet", typed("north"))
    (tmp_path / "north.csv").write_text(text_of(rows("north")))
    one = csv_task(Site(path=str(file), schema=SCHEMA, options={"decimal": ",", "delimiter": ";"}))
    other = csv_task(Site(path=str(tmp_path / "north.csv"), schema=SCHEMA))
    assert torch.equal(one.train[0], other.train[0])
    assert torch.equal(one.test[1], other.test[1])


def test_faults_of_parquet_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    good = parquet(path, {"a": [1, 2], "b": [True, None]})
    assert load_table(good).columns == (["1", "2"], ["1", ""])
    cases = (
        ({"a": [[1], [2]], "b": [1, 2]}, TableLimits(), Code.UNSUPPORTED_TYPE),
        ({"a": [b"1", b"2"]}, TableLimits(), Code.UNSUPPORTED_TYPE),
        ({"a": [1, 2]}, TableLimits(rows_max=1), Code.TOO_LARGE),
        ({"a": [1], "b": [2]}, TableLimits(columns_max=1), Code.TOO_LARGE),
        ({"a": [1, 2]}, TableLimits(cells_max=1), Code.TOO_LARGE),
        ({"a": ["xxxx"]}, TableLimits(cell_chars_max=3), Code.TOO_LARGE),
        ({"a": ["x" * 9] * 9_000}, TableLimits(bytes_max=20_000), None),
        ({"a": np.arange(9_000).tolist()}, TableLimits(bytes_max=71_000), Code.TOO_LARGE),
        ({"": [1]}, TableLimits(), Code.UNNAMED_COLUMN),
        ({"a": []}, TableLimits(), Code.EMPTY_FILE),
    )
    for columns, limits, code in cases:
        parquet(path, columns)  # type: ignore[arg-type]
        if code is None:
            assert load_table(path, Dialect(), limits).rows == 9_000
            continue
        with pytest.raises(DataFault) as raised:
            load_table(path, Dialect(), limits)
        assert raised.value.finding.code == code


def test_one_long_text_in_all_rows_of_parquet_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    # A few kilobytes of file that are 20 GB of text: unpacked, they took the machine's memory.
    path, rows_many = tmp_path / "t.parquet", 20_000
    same = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows_many, pyarrow.int32()), ["x" * 1_000_000])
    writer.write_table(pyarrow.table({"a": same, "y": [0, 1] * (rows_many // 2)}), path)
    assert path.stat().st_size < 200_000
    with pytest.raises(DataFault, match="a cell is too long, limit is 1024 characters") as raised:
        load_table(path)
    assert (raised.value.finding.code, raised.value.finding.column) == (Code.TOO_LARGE, "a")
    short = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, None, 1], pyarrow.int32()), ["é" * 1024, " b "])
    writer.write_table(pyarrow.table({"a": short}), path)
    assert load_table(path).columns == (["é" * 1024, "", "b"],)


def test_times_that_python_cannot_hold_are_read_as_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    fine = pyarrow.array([1, None], pyarrow.timestamp("ns"))
    far = pyarrow.array([2**62, 0], pyarrow.timestamp("us"))
    table = load_table(parquet(tmp_path / "t.parquet", {"fine": fine, "far": far}))
    assert table.column("fine") == ["1970-01-01 00:00:00.000000001", ""]
    assert "out of range" in table.column("far")[0]


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1....PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="needs the package pyarrow") as raised:
        load_table(path)
    assert "quidnunc[tabular]" in raised.value.hint


def test_a_pyarrow_that_does_not_load_is_no_bug_of_this_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('libarrow.so: cannot open shared object file')")
    (tmp_path / "t.parquet").write_bytes(b"PAR1....PAR1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    with pytest.raises(ConfigError, match=r"pyarrow, which is broken: libarrow\.so: cannot open") as raised:
        load_table(tmp_path / "t.parquet")
    assert "export the table as CSV" in raised.value.hint


# Learning.


@pytest.mark.parametrize("private", [False, True])
def test_the_defaults_learn_on_four_sites(private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path)
    monkeypatch.setitem(
        BUILTIN,
        "csv",
        lambda site: csv_task(Site(path=str(paths[SITES[site.index]]), schema=SCHEMA)),  # type: ignore[arg-type]
    )
    defaults = DEFAULTS["csv"]
    privacy = PrivacyStep(defaults.clip, noise_for(8.0, 20, 1e-5)) if private else None
    training = defaults.private if private else defaults.plain
    scenario = Scenario(training, "csv", peers=4, rounds=20, privacy=privacy)
    together, alone = run(scenario, seed=0), run(replace(scenario, exchange=False), seed=0)
    assert together.mean >= 0.75
    assert together.mean >= alone.mean - 0.03


# In a compute process.


@pytest.mark.trio
async def test_it_trains_in_a_real_compute_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = write(tmp_path / "data")
    (tmp_path / "blobs").mkdir()
    training = DEFAULTS["csv"].plain
    setup = Setup(
        *("csv", str(tmp_path / "blobs")),
        path=str(paths["north"]),
        schema=SCHEMA.replace("median = 110\n", ""),
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        local_steps=training.local_steps,
        batch_size=training.batch_size,
    )
    async with ComputeProcess(setup, noise_seed=b"seed") as child:
        assert child.notes == ()
        described = await child.run(DescribeJob())
        assert isinstance(described, Described), described
        assert described.dim == 2 * FEATURES + 2
        state = described.genesis
        first = await child.run(EvaluateJob(0, state))
        for number in range(1, 11):
            trained = await child.run(TrainJob(number, number, state, state, True, 1.0, None))
            assert isinstance(trained, Trained), trained
            state = trained.result
        last = await child.run(EvaluateJob(10, state))
        assert isinstance(first, Evaluated)
        assert isinstance(last, Evaluated)
        assert last.loss < 0.9 * first.loss
        (note,) = child.notes
        assert note.startswith("column sugar: missing cells are filled with the median measured")
    said = capfd.readouterr().err
    assert "north.csv: column sugar: missing cells are filled with the median measured" in said


@pytest.mark.trio
async def test_a_table_with_an_error_fails_the_job_with_the_finding(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text_of([{**row, "age": "212"} for row in rows("south")]))
    async with ComputeProcess(Setup("csv", str(tmp_path), path=str(path), schema=SCHEMA)) as child:
        failure = await child.run(DescribeJob())
    assert isinstance(failure, JobFailed)
    assert failure.why.startswith(f"{path}: row 2, column age: 212 is outside of 18 to 100 years (90 rows)")
    assert 'outside = "clip"' in failure.why
