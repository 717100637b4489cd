"""Graphs from files: what is read, and that hostile files end in one refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.topology import read
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.read import parse_graph
from quidnunc.sim.topology.spec import TopologySpec

HEAD = '<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">'


def graphml(inside: str, head: str = HEAD, default: str = "undirected") -> bytes:
    return f'{head}<graph edgedefault="{default}">{inside}</graph></graphml>'.encode()


TRIANGLE = '<node id="a"/><node id="b"/><node id="c"/>' + "".join(
    f'<edge source="{a}" target="{b}"/>' for a, b in ("ab", "bc", "ca")
)


def test_an_edge_list_names_its_peers_in_order_of_appearance(tmp_path: Path) -> None:
    file = tmp_path / "graph.txt"
    file.write_text("# four hospitals\nnorth south\nsouth,east  # by sea\n\nwest\tnorth\neast west\n")
    graph = read.read_graph(file)
    assert graph.names == ("north", "south", "east", "west")
    assert graph.edges.tolist() == [[0, 1], [0, 3], [1, 2], [2, 3]]


def test_graphml_is_read_with_and_without_a_prefix() -> None:
    assert parse_graph(graphml(TRIANGLE)).edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    prefixed = HEAD.replace("<graphml xmlns=", "<g:graphml xmlns:g=")
    inside = TRIANGLE.replace("<node", "<g:node").replace("<edge", "<g:edge")
    text = f'{prefixed}<g:key id="d"/><g:graph edgedefault="undirected">{inside}</g:graph></g:graphml>'
    for data in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16")):
        assert parse_graph(data).peers == 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 nodes"),
        (b"a b c\n", ":1: 3 words"),
        (b"a b\nb a\n", ":2: edge 'b' to 'a' a second time"),
        (b"a b\nb b\n", ":2: an edge from 'b' to itself"),
        (b"a b\nc d\n", "2 parts"),
        (b"a b\n\xff\xfe", "not UTF-8 at byte 4"),
        (b"x" * 257 + b" b", "node name of 257"),
        (graphml(TRIANGLE, default="directed"), "directed graph"),
        (graphml(TRIANGLE + '<edge source="a" target="z"/>'), "'z', which is no node"),
        (graphml('<node id="a"/><node id="a"/>'), "second time"),
        (graphml("<node/>"), "node name of 0"),
        (graphml('<graph edgedefault="undirected"/>'), "nested"),
        (graphml("<hyperedge/>"), "hyperedge"),
        (b"<html/>", "must be <graphml>"),
        (b"<graphml><graph>", "not XML"),
        (b"<a>" * 40, "must be <graphml>"),
        (b"<graphml>" * 40, "nested deeper than 32"),
        (b'<?xml version="1.0" encoding="klingon"?><graphml/>', "not XML"),
    ],
)
def test_what_is_no_graph_is_refused_with_its_place(data: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        parse_graph(data, "file")
    assert refused.value.message.startswith("file")
    assert refused.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_never_expanded(encoding: str) -> None:
    bomb = '<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    text = f'<?xml version="1.0" encoding="{encoding}"?>{bomb}<graphml>&b;</graphml>'
    with pytest.raises(ConfigError, match="document type"):
        parse_graph(text.encode(encoding))


def test_caps_hold_at_the_limit_and_one_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "NODES_MAX", 3)
    monkeypatch.setattr(read, "EDGES_MAX", 3)
    assert parse_graph(b"a b\nb c\nc a\n").peers == 3
    with pytest.raises(ConfigError, match="more than 3 nodes"):
        parse_graph(b"a b\nb c\nc d\n")
    monkeypatch.setattr(read, "NODES_MAX", 4)
    with pytest.raises(ConfigError, match="more than 3 edges"):
        parse_graph(b"a b\nb c\nc a\nc d\n")
    monkeypatch.setattr(read, "FILE_BYTES_MAX", 4)
    assert parse_graph(b"a b\n").peers == 2
    with pytest.raises(ConfigError, match="more than 4 bytes"):
        parse_graph(b"a b\n\n")


def test_a_name_may_have_as_many_characters_as_allowed() -> None:
    assert parse_graph(b"x" * read.NAME_CHARS_MAX + b" b").peers == 2


def test_a_missing_file_and_another_number_of_nodes_are_named(tmp_path: Path) -> None:
    spec = TopologySpec(kind="file", file="graph.txt")
    with pytest.raises(ConfigError, match=r"graph\.txt: cannot be read"):
        build_topology(spec, 3, base=tmp_path)
    (tmp_path / "graph.txt").write_text("a b\nb c\n")
    assert np.array_equal(build_topology(spec, 3, base=tmp_path).edges(), [[0, 1], [1, 2]])
    with pytest.raises(ConfigError, match="3 nodes, the scenario 4 peers") as refused:
        build_topology(spec, 4, base=tmp_path)
    assert refused.value.hint == "set peers = 3"


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: ("<graphml>" + text).encode())))
def test_arbitrary_bytes_are_a_graph_or_a_config_error(data: bytes) -> None:
    try:
        graph = parse_graph(data)
    except ConfigError:
        return
    assert graph.peers >= 2
    assert graph.edges.max() == graph.peers - 1
