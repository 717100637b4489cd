"""A charter that begins with an earlier model: named by hash, passed on as a file, installed only if it is that one."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import make_home, quidnunc

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.founding import open_charter
from quidnunc.peer.home import Home
from quidnunc.peer.model_file import beside, installed_model, read_model

DIM = 650
MODEL = np.arange(DIM, dtype="<f4").tobytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two homes and a charter that begins with ``MODEL``, signed by both."""
    root = tmp_path_factory.mktemp("from-model")
    cards = [make_home(root / name, f"Hospital {name.upper()}", "--no-input") for name in "ab"]
    (root / "earlier").write_bytes(MODEL)
    words = ["--option", "model=softmax", "--from-model", root / "earlier", "--out", root / "charter.note"]
    result = quidnunc("--json", "federation", "create", *cards, *words)
    assert result.data["model"] == str(root / "charter.params")
    for name in "ab":
        assert quidnunc("--home", root / name, "--yes", "federation", "sign", root / "charter.note").code == 0
    return root


@pytest.fixture
def founding(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "f")
    return tmp_path / "f"


def genesis(founding: Path) -> bytes:
    return open_charter((founding / "charter.note").read_bytes()).charter.task.genesis


def test_the_charter_names_the_model_and_install_keeps_it(founding: Path) -> None:
    assert genesis(founding) == hashlib.sha256(MODEL).digest()
    assert beside(founding / "charter.note").read_bytes() == MODEL
    home = Home.at(founding / "a")
    assert quidnunc("--home", home.root, "federation", "install", founding / "charter.note").code == 0
    assert installed_model(home, genesis(founding), DIM) == MODEL
    home.model.write_bytes(MODEL[:-4] + bytes(4))
    assert installed_model(home, genesis(founding), DIM) is None, "what was changed since does not count"


def test_another_model_is_not_installed_nor_its_charter(founding: Path) -> None:
    home = Home.at(founding / "a")
    (founding / "charter.params").unlink()
    (founding / "other").write_bytes(bytes(4 * DIM))
    words = ["federation", "install", founding / "charter.note", "--model", founding / "other"]
    result = quidnunc("--home", home.root, "--json", *words)
    assert result.code != 0
    assert genesis(founding).hex()[:16] in result.envelope["error"]["message"]
    assert not home.model.exists()
    assert not home.charter.exists()
    words[-1] = founding / "earlier"
    assert quidnunc("--home", home.root, *words).code == 0


@pytest.mark.parametrize(
    "data",
    [b"", MODEL[:-1], MODEL[:-4], MODEL + b"x", MODEL[:-4] + np.array([np.inf], "<f4").tobytes()],
    ids=["empty", "short", "one param less", "long", "infinite"],
)
def test_what_is_no_model_of_this_task_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read_model(path, DIM)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_model(tmp_path / "nothing", DIM)
    with pytest.raises(ConfigError, match="no peer lives here"):
        read_model(tmp_path, DIM)
    make_home(tmp_path / "a", "Hospital A")
    with pytest.raises(ConfigError, match="no model of 650"):
        read_model(tmp_path / "a", DIM)
