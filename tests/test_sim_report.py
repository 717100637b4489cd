"""The report of a run: self-contained, inert, small whatever was run, and true to the run directory."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cli_helpers import quidnunc as command

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.batched.conditions import Links
from quidnunc.sim.batched.witness import REFUSED_MAX, held
from quidnunc.sim.report import axes, charts
from quidnunc.sim.report.axes import Axis, Series
from quidnunc.sim.report.page import BYTES_MAX, page
from quidnunc.sim.scenarios.columns import COLUMNS
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.stored import Graph, Record, StoredRun, read_run
from quidnunc.sim.topology.mixing import metropolis

HOSTILE = '"><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)> \x1b[31m \u202e'
SCENARIO: dict[str, Any] = {
    "name": "hit",
    "peers": 10,
    "rounds": 6,
    "evaluate_every": 2,
    "seeds": [3, 5],
    "data": {"source": "synthetic", "pool": 500, "features": 4, "classes": 3},
    "merge": {"rule": "repute"},
    "attack": {"name": "sign_flip", "count": 2},
    "privacy": {"epsilon": 20.0},
}


class Read(HTMLParser):
    """Tags, ids, attributes, words."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.metas: dict[str, str] = {}
        self.words = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags[tag] += 1
        self.attributes.update(found.keys())
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        if tag == "meta" and "http-equiv" in found:
            self.metas[found["http-equiv"]] = found["content"]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report") / "run"
    run(SCENARIO, out=place)
    return place


def test_nothing_runs_and_nothing_is_asked_for(directory: Path) -> None:
    source = (directory / "report.html").read_text()
    read = Read(source)
    style = re.search(r"<style>(.*?)</style>", source, re.S)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert read.metas["Content-Security-Policy"] == policy
    assert not read.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "form", "image", "use", "base"}
    assert not {name for name in read.attributes if name.startswith("on") or name in ("style", "src", "srcdoc")}
    assert not re.search(r"url\(|@import|//", source.replace("<!DOCTYPE html>", ""))
    assert len(set(read.ids)) == len(read.ids)
    assert {link.removeprefix("#") for link in read.links} <= set(read.ids)
    assert not re.search(r"\bnan\b|\binf\b", read.words)


def test_it_says_what_the_run_says(directory: Path) -> None:
    found = read_run(directory)
    words = Read(page(found)).words
    for name, title, shape in COLUMNS:
        value = found.mean(name)
        assert (title in words) == (value is not None), name
        if value is not None:
            assert shape.format(value[0]) in words
    for title in ("After the last round", "Over rounds", "Attackers", "Who reads whom", "Every peer", "Scenario"):
        assert title in words
    for axis in ("round", "test accuracy", "distance to the average", "part of a merge", "AUROC", "epsilon spent"):
        assert axis in words
    assert found.graph is not None
    assert [f"attacker {peer}" in words for peer in range(10)] == [peer in found.graph.attackers for peer in range(10)]
    assert "attack.count" in words
    assert "simulated and protects nobody" in words


def test_the_report_says_who_refused_whom(directory: Path) -> None:
    """Against the columns it was drawn from: attackers, each with the honest readers that keep less than half of it."""
    found = read_run(directory)
    last = [record for record in found.records if record.seed == 3][-1]
    assert found.graph is not None
    bad = set(found.graph.attackers)
    assert last.refused
    assert {refused for _, refused in last.refused} >= bad
    edges = {frozenset(edge) for edge in found.graph.edges}
    assert all(reader not in bad and frozenset((reader, read)) in edges for reader, read in last.refused)
    source = page(found)
    for peer in bad:
        readers = ", ".join(str(reader) for reader, refused in last.refused if refused == peer)
        assert re.search(rf"<tr><td class=n>{peer}<td>attacker<td class=n>[0-9.]+%<td>{readers}<", source)


def test_of_very_many_refusals_the_strongest_are_kept() -> None:
    mixing = metropolis(60, np.array([(a, b) for a in range(60) for b in range(a)]))
    counted = mixing.weights * np.linspace(0, 0.6, len(mixing.weights))
    found = held(Links(mixing, None), counted, np.ones(60, dtype=np.bool_), np.arange(60)[::-1])
    assert found is not None
    assert len(found.refused) == REFUSED_MAX
    assert found.refused == tuple(sorted(found.refused))
    first = (59 - int(mixing.receivers[0]), 59 - int(mixing.indices[0]))
    assert first in found.refused


def test_drawings_shrink_with_the_window(directory: Path) -> None:
    """Found in a browser: at 400 pixels charts reached out of the page, 176 pixels to the right."""
    assert "svg{max-width:100%;height:auto}" in page(read_run(directory))


def test_without_attackers_and_privacy_there_is_nothing_about_them(tmp_path: Path) -> None:
    run({**SCENARIO, "attack": None, "privacy": None, "seeds": [1]}, out=tmp_path / "run")
    read = Read((tmp_path / "run" / "report.html").read_text())
    assert "attack" not in read.ids
    assert "epsilon spent" not in read.words
    assert "One seed" in read.words


def test_names_are_text_whatever_they_hold(directory: Path) -> None:
    found = read_run(directory)
    clean = Read(page(found))
    assert found.graph is not None
    replaced = msgspec.structs.replace
    facts = [{**each, "data": HOSTILE, "shares": HOSTILE} for each in found.manifest.seeds]
    manifest = replaced(found.manifest, name=HOSTILE, seeds=facts, versions={HOSTILE: HOSTILE}, status=HOSTILE)
    source = page(replaced(found, manifest=manifest, graph=replaced(found.graph, kind=HOSTILE)))
    read = Read(source)
    assert set(read.attributes) == set(clean.attributes)
    assert read.tags.keys() == clean.tags.keys()
    assert "<script>alert(1)</script>" in read.words
    assert not [char for char in source if not char.isprintable() and char != "\n"]


def test_the_largest_run_still_fits(directory: Path) -> None:
    """256 peers with their own lines over 3,000 rounds and 100 seeds, beside a graph of 100,000 peers."""
    found = read_run(directory)
    spread = [round(peer / 255, 5) for peer in range(256)]
    records = []
    for seed in range(100):
        for number in range(1, 3000, 10 if seed == 0 else 1000):
            wave = (number * 7919 % 1000) / 1000
            numbers = {name: wave for name, _, shape in COLUMNS if "," not in shape}
            counts = dict.fromkeys(("peers_present", "messages", "messages_lost", "bytes_sent"), number * 10**9)
            per_peer = {"accuracies": spread[number % 256 :] + spread[: number % 256], "weight_kept": spread}
            per_peer |= {"alone": spread, "refused": [(peer, 3) for peer in range(256)]}
            records.append(Record(seed=seed, round=number, **numbers, **counts, **per_peer))
    places = [(at % 317 / 317, at / 100_000) for at in range(100_000)]
    edges = [(at, (at * 7919) % 100_000) for at in range(20_000)]
    graph = Graph(0, "erdos-renyi", 100_000, 10**6, edges, places, list(range(0, 100_000, 7)))
    source = page(StoredRun(found.path, found.manifest, records, graph))
    assert len(source.encode()) < BYTES_MAX
    assert source.count("<svg") > charts.MULTIPLES_MAX


def test_a_run_that_ended_early_is_drawn_as_such(directory: Path) -> None:
    found = read_run(directory)
    manifest = msgspec.structs.replace(found.manifest, status="failed")
    one = msgspec.structs.replace(found, manifest=manifest, records=found.records[:1], graph=None)
    words = Read(page(one)).words
    assert "This run is failed" in words
    assert "Who reads whom" not in words


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("manifest.json", None, "cannot be read: no such file"),
        ("manifest.json", "{", "manifest.json"),
        ("manifest.json", '{"format": "x"}', "missing required field"),
        ("metrics.jsonl", "", "no records"),
        ("metrics.jsonl", '{"seed": 0}\n', "line 1"),
        ("metrics.jsonl", '{"seed": 0, "round": -1}\n', "line 1"),
        ("topology.json", "[]", "topology.json"),
    ],
)
def test_what_is_no_run_directory_is_named(
    file: str, content: str | None, says: str, directory: Path, tmp_path: Path
) -> None:
    for name in ("manifest.json", "metrics.jsonl", "topology.json"):
        if name != file:
            (tmp_path / name).write_bytes((directory / name).read_bytes())
        elif content is not None:
            (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as refused:
        read_run(tmp_path)
    assert says in refused.value.message
    assert refused.value.hint


def test_a_graph_that_names_peers_without_a_place_is_refused(directory: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    graph = Graph(0, "ring", 2, 1, [(0, 2)], [(0.0, 0.0), (1.0, 1.0)], [])
    (tmp_path / "topology.json").write_bytes(msgspec.json.encode(graph))
    with pytest.raises(ConfigError, match="have no place"):
        read_run(tmp_path)


def test_the_command_draws_a_directory_anew(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    found = command("--json", "sim", "report", directory, "--out", out)
    assert found.data == {"path": str(out), "bytes": out.stat().st_size}
    assert out.read_text() == (directory / "report.html").read_text()
    assert command("sim", "report", tmp_path).code == 64
    assert command("sim", "report", directory, "--out", tmp_path / "no" / "x.html").code == 73


def test_charts_of_little_or_broken_data() -> None:
    assert "nothing was measured" in axes.chart("t", [1, 2], [Series("a", [None, None], 0)], Axis("y"))
    drawn = axes.chart("t", [1, 2, 3, 4], [Series("a", [0.5, None, 0.5, None], 0)], Axis("y"))
    assert drawn.count("h.1") == 2
    assert "<path" in axes.chart("t", [7], [Series("a", [3.0], 0)], Axis("y"))
    assert axes.marks(0, 1, 6) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert axes.marks(0.13, 0.9, 6) == [0.2, 0.4, 0.6, 0.8]
    for low, high in ((0.0, 1e-9), (-3.0, 5e6), (0.07, 0.0701)):
        found = axes.marks(low, high, 6)
        assert 1 <= len(found) <= 6
        assert all(low - 1e-12 <= mark <= high * (1 + 1e-9) for mark in found)
    assert axes.thinned(1000, 5) == [0, 250, 500, 749, 999]
