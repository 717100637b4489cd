"""The HTML page about a ledger: self-contained, inert, complete, and every link leads somewhere and back."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from federation_homes import Federation, federation

from quidnunc.gossip.lineage import Place
from quidnunc.gossip.markup import text, ticks
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.peer.cli import Context
from quidnunc.peer.home import Home
from quidnunc.peer.output import Output
from quidnunc.peer.page import gather as gathering
from quidnunc.peer.page.gather import Gathered, gather
from quidnunc.peer.page.markup import code_of, time_ticks
from quidnunc.peer.page.page import page

HOSTILE = '"><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)> \x1b[31m \u202e'


class Read(HTMLParser):
    """What stands in a page: tags, ids, links, text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.attributes: Counter[str] = Counter()
        self.metas: dict[str, str] = {}
        self.rows: dict[str, list[str]] = {}
        self._row = ""
        self.words = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags[tag] += 1
        self.attributes.update(found.keys())
        if "id" in found:
            self.ids[found["id"]] += 1
        if tag == "tr":
            self._row = found.get("id", "")
        if tag == "meta" and "http-equiv" in found:
            self.metas[found["http-equiv"]] = found["content"]
        if tag == "a":
            self.links.append(found["href"])
            self.rows.setdefault(self._row, []).append(found["href"][1:])

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return federation(tmp_path_factory.mktemp("page"), 9.0, 4)


def gathered(four: Federation, *others: int) -> Gathered:
    context = Context(Home.at(four.homes[0]), Output())
    return gather(context, [Home.at(four.homes[index]) for index in others])


def test_the_command_writes_one_file(four: Federation, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    words = [word for home in four.homes[1:] for word in ("--ledger", home)]
    result = quidnunc("--home", four.homes[0], "--json", "ledger", "export", "--format", "html", "--out", out, *words)
    assert result.data | {"path": "", "format": ""} == {
        "format": "",
        "path": "",
        "entries": gathered(four).main.size,
        "bytes": out.stat().st_size,
        "ledgers": 4,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("others", [(), (1, 2, 3)])
def test_every_link_leads_to_something_on_the_page_and_something_leads_back(
    four: Federation, others: tuple[int, ...]
) -> None:
    read = Read(page(gathered(four, *others)))
    assert [name for name, count in read.ids.items() if count > 1] == []
    assert all(link.startswith("#") for link in read.links)
    assert {link[1:] for link in read.links} <= read.ids.keys()
    targets = {target for links in read.rows.values() for target in links}
    assert {name for name in read.ids if re.fullmatch(r"[es]\d+", name)} <= targets | {"e0", "e1"}
    for row, links in read.rows.items():
        for target in links:
            if re.fullmatch(r"e\d+", row) and re.fullmatch(r"s\d+", target):
                assert row in read.rows[target], f"{row} leads to {target}, which does not lead back"
            if re.fullmatch(r"s\d+", row) and re.fullmatch(r"e\d+", target):
                assert row in read.rows[target], f"{row} leads to {target}, which does not lead back"


def test_nothing_runs_and_nothing_is_asked_for(four: Federation) -> None:
    source = page(gathered(four, 1))
    read = Read(source)
    policy = read.metas["Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", source, re.S)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not read.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "form", "image", "use", "base"}
    assert not {name for name in read.attributes if name.startswith("on") or name in ("style", "src", "srcdoc")}
    assert not re.search(r"url\(|@import|//", source.replace("<!DOCTYPE html>", ""))


def test_names_and_purposes_are_text_whatever_they_hold(four: Federation) -> None:
    clean = Read(page(gathered(four, 1)))
    found = gathered(four, 1)
    for log_id in found.names:
        found.names[log_id] = HOSTILE
    for each in found.ledgers:
        each.name = each.problem = HOSTILE
    for row in list(found.main.rows):
        found.main.rows.append(type(row)(row.seq, row.t_ms, row.kind, row.leaf, row.record, HOSTILE))
        found.main.rows.popleft()
    source = page(found)
    read = Read(source)
    assert (read.tags, set(read.attributes)) == (clean.tags, set(clean.attributes))
    assert "<script>alert(1)</script>" in read.words
    assert "\\x1b[31m" in read.words
    assert not [char for char in source if not char.isprintable() and char != "\n"]


def test_the_page_says_what_the_ledgers_say(four: Federation) -> None:
    found = gathered(four, 1, 2, 3)
    read = Read(page(found))
    for index in range(4):
        assert four.name(index) in read.words
        assert four.world.peers[index].log_id.hex() in read.words
    for each in found.ledgers:
        assert each.root.hex() in read.words
        assert sum(each.accepted.values()) == sum(
            entry["type"] == "update.received"
            for entry in ledger(four.homes[four_index(four, each.log_id)], "log", "-n", "0")["log"]
        )
    for title in ("Timeline", "Lineage", "Contribution over rounds", "Who accepted whom", "Witness lag", "Entries"):
        assert title in read.words
    for axis in ("time claimed by the entries (UTC)", "round of the member's own", "share of the model"):
        assert axis in read.words
    assert all(row.leaf.hex() in read.words for row in found.main.rows)


def four_index(four: Federation, log_id: bytes) -> int:
    return next(peer.index for peer in four.world.peers if peer.log_id == log_id)


def ledger(home: Path, *words: str) -> Any:
    return quidnunc("--home", home, "--json", "ledger", *words).data


def test_contributions_are_those_of_trace(four: Federation) -> None:
    found = gathered(four, 1, 2, 3)
    number, newest = found.traces[-1]
    words = [word for home in four.homes[1:] for word in ("--ledger", home)]
    event = found.lineage.event(newest.target)
    state = event.replica_after.hex()  # type: ignore[union-attr]
    told = quidnunc("--home", four.homes[0], "--json", "ledger", "trace", state, *words).data
    assert [row["share"] for row in told["shares"]] == [each.share for each in newest.shares]
    assert told["round"] == number
    assert all(sum(each.share for each in trace.shares) == pytest.approx(1.0) for _, trace in found.traces)


def test_claims_stand_on_the_page_as_they_were_signed(four: Federation) -> None:
    found = gathered(four)
    author = found.order[1]
    newest = max((found.lineage.event(Place(*place)) for place in found.taken if place.log_id == author), key=number)
    assert isinstance(newest, UpdatePublished)
    shares = {row.log_id: row.ppb for row in newest.claims if row.log_id in found.names}
    row = re.search(rf"B [^<]*, update {newest.number}</th>(.*?)</tr>", page(found))
    assert row is not None
    told = re.findall(r">([\d.]+%|·)<", row[1])
    assert told[: len(found.order)] == [
        f"{shares[log_id] / sum(shares.values()):.1%}" if log_id in shares else "·" for log_id in found.order
    ]
    assert row[1].endswith("<td>no</td>")
    assert "rests on claims" in page(found)


def test_a_page_without_claims_has_no_table_of_them(four: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quidnunc.peer.page.claims.believable", lambda claim, author, steps: ())
    assert "training of" not in page(gathered(four))


def number(event: object) -> int:
    return event.number if isinstance(event, UpdatePublished) else -1


def test_a_long_history_is_cut_at_its_limits(four: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    size = gathered(four).main.size
    for limit, shown in ((size, size), (size - 1, size - 1)):
        monkeypatch.setattr(gathering, "ENTRIES_MAX", limit)
        read = Read(page(gathered(four)))
        assert sum(1 for name in read.ids if re.fullmatch(r"e\d+", name)) == shown
        assert ("are listed, from entry" in read.words) == (limit < size)
    monkeypatch.setattr(gathering, "LEDGERS_MAX", 2)
    assert len(gathered(four, 1).ledgers) == 2
    with pytest.raises(gathering.LedgerUnusable, match="limit is 2"):
        gathered(four, 1, 2)


def test_ledgers_that_cannot_stand_beside_are_named(four: Federation, tmp_path: Path) -> None:
    with pytest.raises(gathering.LedgerUnusable, match="named twice"):
        gathered(four, 1, 1)
    (tmp_path / "x.db").write_bytes(b"no")
    result = quidnunc("--home", four.homes[0], "ledger", "export", "--format", "html", "--ledger", tmp_path / "x.db")
    assert result.code == 65


def test_sixty_rounds_of_eight_peers_fit(four: Federation) -> None:
    """640 entries and about as many states, at these sizes, are 400 kB; charts are 100 kB more."""
    source = page(gathered(four))
    for kind, limit in (("e", 380), ("s", 245)):
        rows = re.findall(rf"<tr id={kind}\d+>.*?(?=<tr|</table>)", source)
        assert sum(map(len, rows)) / len(rows) < limit


def test_the_axis_of_time_has_round_times_of_equal_distance() -> None:
    second, day = 1000, 86_400_000
    noon = 20_000 * day + day // 2
    assert time_ticks(noon + 300, noon + 7_100, 8) == [(noon + n * second, f"12:00:0{n}") for n in range(1, 8)]
    parts = [f"12:00:00.{n}00" for n in (0, 2, 4, 6, 8)]
    assert [told for _, told in time_ticks(noon, noon + 1_000, 8)] == [*parts, "12:00:01.000"]
    assert [told for _, told in time_ticks(noon, noon + 5 * 3_600_000, 8)][:2] == ["12:00:00", "13:00:00"]
    assert [told for _, told in time_ticks(noon, noon + day, 8)][:2] == ["10-04 12:00", "10-04 18:00"]
    assert [told for _, told in time_ticks(noon, noon + 20 * day, 8)][:2] == ["2024-10-09", "2024-10-14"]
    for low in (0, 7, noon + 1):
        for high in (low + 1, low + 999, low + 61_000, low + day, low + 400 * day, 2**62):
            found = [t_ms for t_ms, _ in time_ticks(low, high, 8)]
            assert len(found) <= 8
            assert all(low <= each <= high for each in found)
            assert len({b - a for a, b in pairwise(found)}) <= 1


def test_letters_ticks_and_text() -> None:
    assert [code_of(at) for at in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]
    assert ticks(0, 26, 8) == [0, 5, 10, 15, 20, 25]
    assert ticks(3, 3, 5) == [3]
    assert all(len(ticks(low, low + span, 8)) <= 8 for low in (0, 7) for span in (1, 9, 10, 99, 12345))
    assert text("<a href='x' id=\"y\">&\n") == "&lt;a href=&#x27;x&#x27; id=&quot;y&quot;&gt;&amp;\\n"
