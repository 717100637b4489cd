"""The house's import rules: crypto <- gossip <- {peer, sim}, pure layers stay pure, big libraries stay in few files."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("crypto", "gossip", "peer", "sim")
MAY_IMPORT = {
    "crypto": {"crypto"},
    "gossip": {"crypto", "gossip"},
    "peer": {"crypto", "gossip", "peer"},
    "sim": {"crypto", "gossip", "sim"},
}
IMPURE = {
    *("asyncio", "os", "pathlib", "secrets", "socket", "threading", "time", "datetime", "logging", "subprocess"),
    *("pickle", "tempfile", "multiprocessing", "select", "signal", "shutil", "sqlite3", "urllib", "http"),
}
PURE_LAYERS = ("crypto", "gossip")
NEVER = {"pickle", "asyncio", "marshal", "shelve", "dill", "cloudpickle"}
ONLY_IN = {
    "msgpack": {"crypto/encoding.py"},
    "networkx": {
        "gossip/federation/topology.py",
        *(f"sim/topology/{name}.py" for name in ("edges", "read", "measure", "layout")),
    },
    "scipy": {"sim/topology/mixing.py", "sim/topology/measure.py"},
    "ray": {"sim/scenarios/connected.py"},
    "numba": {
        "crypto/noise_kernel.py",
        "gossip/rules/kernels.py",
        "gossip/rules/lanes.py",
        "gossip/rules/dots.py",
        "gossip/rules/mixing.py",
        "gossip/rules/registers.py",
        *(f"sim/batched/{name}.py" for name in ("sums", "products", "descent", "probe", "apart")),
    },
    "llvmlite": {
        *(f"gossip/rules/{name}.py" for name in ("lanes", "dots", "mixing", "registers")),
        *(f"sim/batched/{name}.py" for name in ("sums", "products")),
    },
    "rich": {"sim/commands/progress.py"},
    "sklearn": set(),
    "libp2p": {"peer/network/libp2p_parts.py"},
    "multiaddr": set(),
    "cryptography": {"crypto/noise.py", "peer/network/sealing.py"},
    "h11": {"peer/http_server.py"},
    "sqlite3": {
        "peer/ledger/database.py",
        "peer/ledger/store.py",
        "peer/ledger/ledger_check.py",
        "peer/ledger/meaning_check.py",
        "peer/ledger/tally.py",
        "peer/ledger/ledger_reader.py",
        "peer/ledger/mirror.py",
    },
}


def modules() -> list[Path]:
    return sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", modules(), ids=place)
def test_imports_respect_the_layers(path: Path) -> None:
    layer = place(path).split("/")[0]
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in LAYERS, f"{place(path)}: import {name} as quidnunc.{name}"
        if parts[0] == "quidnunc":
            # The command line is the composition root: it alone may load the simulator's commands.
            allowed = MAY_IMPORT[layer] | ({"sim"} if place(path) == "peer/cli.py" else set())
            assert parts[1] in allowed, f"{place(path)} imports {name}"
        assert parts[0] not in NEVER, f"{place(path)} imports {name}"
        if layer in PURE_LAYERS:
            assert parts[0] not in IMPURE, f"{place(path)} imports {name}: {layer}/ is pure"
            assert parts[0] not in ("trio", "random"), f"{place(path)} imports {name}"
        if layer == "crypto":
            assert parts[0] not in ("torch", "sklearn", "networkx"), f"{place(path)} imports {name}"
            assert parts[0] != "numpy" or place(path).startswith("crypto/noise"), f"{place(path)} imports {name}"
        homes = ONLY_IN.get(parts[0])
        assert homes is None or place(path) in homes, f"{place(path)} imports {name}, only {homes} may"


@pytest.mark.parametrize("path", modules(), ids=place)
def test_nobody_seeds_the_process(path: Path) -> None:
    text = path.read_text()
    for forbidden in ("torch.manual_seed(", "np.random.seed(", "numpy.random.seed(", "random.seed("):
        assert forbidden not in text, f"{place(path)}: {forbidden}"


PROTOCOL = (
    "quidnunc.gossip.node",
    "quidnunc.gossip.federation.charter",
    "quidnunc.gossip.status",
    "quidnunc.gossip.advance",
    "quidnunc.peer.daemon",
    "quidnunc.peer.host",
    "quidnunc.peer.commands.run",
)


@pytest.mark.parametrize("name", PROTOCOL)
def test_the_daemon_parent_never_imports_torch(name: str) -> None:
    code = f"import sys, {name}; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PARENT = ("quidnunc.peer.commands.run", "quidnunc.peer.daemon", "quidnunc.peer.network.transport")
"""Everything that the daemon's parent imports in the end."""
NOT_IN_PARENT = {
    *("torch", "numpy", "numba", "scipy", "sklearn", "networkx", "dp_accounting"),
    *("starlette", "hypercorn", "h2", "httpx", "anyio", "asyncio", "multiprocessing", "html"),
    *("importlib.metadata", "email", "csv", "zipfile"),
    *("aioquic", "Crypto", "coincurve", "fastecdsa", "psutil", "trio_typing", "pycparser", "zeroconf", "miniupnpc"),
}
"""Its memory is bounded (bench/daemon.py): what one of these costs, 1 to 12 MB, every peer would pay all day."""


def test_the_daemon_parent_imports_only_what_it_needs() -> None:
    code = (
        f"import sys, {', '.join(PARENT)}; found = {NOT_IN_PARENT!r} & set(sys.modules); "
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", ["status", "peers", "ledger", "budget", "identity", "version", "init", "data", "privacy"]
)
def test_quick_commands_import_nothing_heavy(name: str) -> None:
    code = (
        f"import sys, quidnunc.peer.cli, quidnunc.peer.commands.{name}; "
        "heavy = {'torch', 'libp2p', 'numpy', 'trio', 'sklearn', 'networkx', 'dp_accounting'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    there = {f"quidnunc.{place(path.parent).replace('/', '.')}" for path in modules() if path.name == "__init__.py"}
    assert sorted(listed) == sorted(there)
