"""Graphs from files: GraphML and edge lists, parsed by ourselves because files come from strangers.

GraphML is XML: document types, and with them entities that expand to gigabytes or read other files, are refused
outright. Both formats are capped in bytes, nodes and edges; loops and repeated edges are refused with their place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

import networkx as nx
import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.files import read_regular
from quidnunc.sim.topology.edges import normalized
from quidnunc.sim.topology.mixing import Indices
from quidnunc.sim.topology.spec import EDGES_MAX, PEERS_MIN

FILE_BYTES_MAX = 256 * 1024 * 1024
NODES_MAX = 1_000_000
NAME_CHARS_MAX = 256
DEPTH_MAX = 32
_SHOWN = 40


@dataclass(frozen=True, slots=True, eq=False)
class FileGraph:
    """A connected undirected graph: its edges [m, 2] between 0 and ``peers`` - 1, and the names its file gave."""

    peers: int
    edges: Indices
    names: tuple[str, ...]


@dataclass(slots=True)
class _Collector:
    """Nodes and edges as they come, each refused at once where it breaks a bound."""

    source: str
    names: dict[str, int] = field(default_factory=dict)
    edges: set[tuple[int, int]] = field(default_factory=set)

    def node(self, name: str, line: int, *, new: bool = False) -> int:
        if not name or len(name) > NAME_CHARS_MAX:
            self.refuse(line, f"a node name of {len(name)} characters", f"1 to {NAME_CHARS_MAX} are allowed")
        if new and name in self.names:
            self.refuse(line, f"node {name[:_SHOWN]!r} a second time", "name every node once")
        if name not in self.names and len(self.names) >= NODES_MAX:
            self.refuse(line, f"more than {NODES_MAX:,} nodes", "use a smaller graph")
        return self.names.setdefault(name, len(self.names))

    def edge(self, one: str, other: str, line: int) -> None:
        a, b = sorted((self.node(one, line), self.node(other, line)))
        if a == b:
            self.refuse(line, f"an edge from {one[:_SHOWN]!r} to itself", "leave it out")
        if (a, b) in self.edges:
            self.refuse(line, f"edge {one[:_SHOWN]!r} to {other[:_SHOWN]!r} a second time", "name every edge once")
        if len(self.edges) >= EDGES_MAX:
            self.refuse(line, f"more than {EDGES_MAX:,} edges", "use a sparser graph")
        self.edges.add((a, b))

    def refuse(self, line: int, what: str, hint: str) -> NoReturn:
        raise ConfigError(f"{self.source}:{line}: {what}", hint=hint)


def read_graph(path: Path) -> FileGraph:
    """The graph in a file: GraphML if its text begins with ``<``, else an edge list.

    Raises ConfigError for anything that is not a connected graph of 2 nodes or more within the caps.
    """
    try:
        data = read_regular(path, FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"{path}: cannot be read: {why.lower()}", hint="check topology.file") from None
    return parse_graph(data, str(path))


def parse_graph(data: bytes, source: str = "graph") -> FileGraph:
    """:func:`read_graph` for a file's bytes; ``source`` names it in errors."""
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{source}: more than {FILE_BYTES_MAX:,} bytes", hint="use a smaller graph")
    found = _Collector(source)
    # UTF-16, with which a document type could be hidden from a look at the bytes, is expat's to recognize.
    if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        _graphml(data, found)
    else:
        _edge_list(data, found)
    return _checked(found)


def _checked(found: _Collector) -> FileGraph:
    n = len(found.names)
    if n < PEERS_MIN:
        raise ConfigError(f"{found.source}: {n} nodes, must be at least {PEERS_MIN}", hint="is this the right file?")
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(found.edges)
    if not nx.is_connected(graph):
        parts = nx.number_connected_components(graph)
        raise ConfigError(
            f"{found.source}: {parts} parts without an edge between them, must be connected",
            hint="peers in different parts never learn from each other; simulate each part by itself",
        )
    edges = normalized(np.array(sorted(found.edges), dtype=np.int64).reshape(-1, 2))
    return FileGraph(n, edges, tuple(found.names))


def _edge_list(data: bytes, found: _Collector) -> None:
    """Two names a line, separated by white space or a comma; ``#`` begins a comment; a third word is refused."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{found.source}: not UTF-8 at byte {error.start}", hint="save it as UTF-8") from None
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) != 2:
            found.refuse(number, f"{len(words)} words, an edge has two", "edge weights are Metropolis weights here")
        found.edge(words[0], words[1], number)


def _graphml(data: bytes, found: _Collector) -> None:
    parser = expat.ParserCreate()
    open_tags: list[str] = []
    graphs = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal graphs
        kind = tag.rpartition(":")[2]
        line = parser.CurrentLineNumber
        if not open_tags and kind != "graphml":
            found.refuse(line, f"the document is <{tag[:_SHOWN]}>, must be <graphml>", "export it as GraphML")
        if len(open_tags) >= DEPTH_MAX:
            found.refuse(line, f"elements nested deeper than {DEPTH_MAX}", "is this the right file?")
        open_tags.append(kind)
        if kind == "graph":
            graphs += 1
            if graphs > 1:
                found.refuse(line, "a second or nested <graph>", "keep one graph per file")
            if attributes.get("edgedefault") == "directed":
                found.refuse(line, "a directed graph", "links carry both ways here: export it undirected")
        elif kind == "node":
            found.node(attributes.get("id", ""), line, new=True)
        elif kind == "edge":
            if attributes.get("directed") == "true":
                found.refuse(line, "a directed edge", "links carry both ways here: export it undirected")
            ends = attributes.get("source", ""), attributes.get("target", "")
            if any(end not in found.names for end in ends):
                unknown = next(end for end in ends if end not in found.names)
                found.refuse(
                    line, f"an edge to {unknown[:_SHOWN]!r}, which is no node so far", "list nodes before edges"
                )
            found.edge(*ends, line)
        elif kind == "hyperedge":
            found.refuse(line, "a hyperedge", "links have two ends here")

    def doctype(*_: object) -> None:
        found.refuse(parser.CurrentLineNumber, "a document type", "delete the <!DOCTYPE ...>: entities are not read")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: open_tags.pop()
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        found.refuse(error.lineno, f"not XML: {expat.errors.messages[error.code]}", "export it as GraphML again")
    except (ValueError, LookupError) as error:
        found.refuse(1, f"not XML that can be read: {error}", "save it as UTF-8")
