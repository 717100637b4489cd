"""``quidnunc sim topologies``: graphs beside each other, before anybody installs anything."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from quidnunc.crypto.errors import ConfigError, StoreUnwritable
from quidnunc.sim.commands.frame import Answer, Context, Verbs

if TYPE_CHECKING:
    from quidnunc.sim.topology.catalog import Topology
    from quidnunc.sim.topology.measure import Measures

_ALL = "all"


def register(verbs: Verbs) -> None:
    """The arguments."""
    parser = verbs("topologies", help="degree, diameter, speed of consensus and attackers borne, graph by graph")
    add = parser.add_argument
    add("kind", nargs="*", default=[_ALL], help="ring, torus, random-regular, ... (default: all that fit)")
    add("-n", "--peers", type=int, metavar="N", help="how many peers (default: those of --scenario, else 16)")
    add("--degree", type=int, default=4, metavar="K", help="degree of the kinds that have one (default 4)")
    add("--probability", type=float, default=0.0, metavar="P", help="of edges or rewiring (0: the usual one)")
    add("--file", metavar="FILE", help="a GraphML file or an edge list, beside the others")
    add(
        "--scenario",
        metavar="SCENARIO",
        help="the graph of a scenario's first seed, whatever its kind, beside the others",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the random kinds (default 0)")
    add("--preview", action="store_true", help="draw each graph in the terminal")
    add("--svg", metavar="FILE", help="draw all of them into an SVG file")
    parser.set_defaults(command=topologies)


def topologies(args: argparse.Namespace, context: Context) -> Answer:
    """Measure, and draw if asked to."""
    from quidnunc.sim.topology.measure import measure

    built, skipped = _built(args)
    found = [(topology, measure(topology)) for topology in built]
    for reason in skipped:
        context.out.talk(f"left out: {reason}")
    lines = table([measures for _, measures in found])
    if args.preview:
        from quidnunc.sim.topology.picture import terminal_picture

        for topology, _ in found:
            lines += ["", f"{topology.kind}, {topology.peers} peers", *terminal_picture(topology)]
    if args.svg:
        _write(Path(args.svg), found)
        lines += ["", f"drawn in {args.svg}"]
    return Answer({"topologies": [asdict(measures) for _, measures in found], "left_out": skipped}, lines)


def _built(args: argparse.Namespace) -> tuple[list[Topology], list[str]]:
    """The topologies asked for; those of "all" that do not fit this number of peers are left out with the reason."""
    from quidnunc.sim.topology.catalog import build_topology
    from quidnunc.sim.topology.read import read_graph
    from quidnunc.sim.topology.spec import DEGREE_MAX, Kind, TopologySpec

    kinds = [kind for kind in get_args(Kind) if kind not in ("sequence", "file")]
    everything = args.kind == [_ALL]
    for kind in () if everything else args.kind:
        if kind not in kinds:
            raise ConfigError(f"topology {kind[:40]!r} is unknown", hint=f"there are: {', '.join(kinds)}")
    if not 1 <= args.degree <= DEGREE_MAX:
        raise ConfigError(f"--degree {args.degree}, must be 1 to {DEGREE_MAX}", hint="for example --degree 4")
    if not 0 <= args.probability <= 1:
        raise ConfigError(f"--probability {args.probability}, must be 0 to 1", hint="leave it out for the usual one")
    if not 0 <= args.seed < 2**63:
        raise ConfigError(f"--seed {args.seed}, must be 0 or more and below 2^63", hint="for example --seed 1")
    built, skipped = [], []
    peers = 16 if args.peers is None else args.peers
    if args.scenario:
        from quidnunc.sim.scenarios.text import read_scenario

        path = Path(args.scenario)
        scenario = read_scenario(path)
        built.append(build_topology(scenario.topology, scenario.peers, scenario.seeds[0], path.parent))
        peers = scenario.peers if args.peers is None else args.peers
    for kind in kinds if everything else args.kind:
        try:
            spec = TopologySpec(kind=kind, degree=args.degree, probability=args.probability)
            built.append(build_topology(spec, peers, args.seed))
        except ConfigError as error:
            if not everything:
                raise
            skipped.append(error.message)
    if args.file:
        named = read_graph(Path(args.file)).peers
        built.append(build_topology(TopologySpec(kind="file", file=args.file), named))
    if not built:
        raise ConfigError(skipped[0], hint="choose another number of peers")
    return built, skipped


def table(rows: list[Measures]) -> list[str]:
    """One line per topology, and what the columns mean."""
    lines = [_line("topology", "peers", "edges", "degree", "diameter", "gap", "rounds", "bears")]
    for row in rows:
        degree = str(row.degree_min) if row.degree_min == row.degree_max else f"{row.degree_min}-{row.degree_max}"
        rounds = "never" if row.rounds is None else f"{row.rounds:,}"
        bears = "-" if row.redundancy is None else f"{row.redundancy}{'' if row.redundancy_exact else '?'}"
        diameter = f"{'' if row.diameter_exact else '>='}{row.diameter}"
        gap = f"{row.gap:.3g}"
        lines.append(_line(row.kind, f"{row.peers:,}", f"{row.edges:,}", degree, diameter, gap, rounds, bears))
    return [
        *lines,
        "gap: of the mixing matrix; rounds: until everybody is 100 times nearer to the average, by mixing alone",
        "bears: attackers anywhere that leave every neighborhood an honest majority and the others connected",
        "       (?: not checked whether they stay connected; -: neighbors change, or are not mutual)",
    ]


def _line(kind: str, peers: str, edges: str, degree: str, diameter: str, gap: str, rounds: str, bears: str) -> str:
    return f"{kind:21} {peers:>7} {edges:>9} {degree:>9} {diameter:>8} {gap:>9} {rounds:>11} {bears:>6}"


def _write(path: Path, found: list[tuple[Topology, Measures]]) -> None:
    from quidnunc.sim.topology.picture import svg

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(svg(found))
    except FileExistsError:
        raise ConfigError(
            f"{path}: is there already", hint="nothing is overwritten: name another path, or remove that one first"
        ) from None
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise StoreUnwritable(f"{path}: cannot be written: {why}", hint="choose another place with --svg") from None
