"""Run command lines in this process, as ``main`` would for a shell."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quidnunc.peer.cli import main


@dataclass(frozen=True)
class Result:
    """How one command line ended."""

    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.out.count("\n") == 1, self.out
        found = json.loads(self.out)
        assert list(found) == ["v", "ok", "code", "data", "warnings", "error"]
        assert found["v"] == 1
        assert found["ok"] == (found["code"] == 0)
        assert found["code"] == self.code
        return dict(found)

    @property
    def data(self) -> Any:
        """What a command that ended well found."""
        assert self.code == 0, self.err
        return self.envelope["data"]


def quidnunc(*words: str | Path) -> Result:
    """Run ``quidnunc`` with these words."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Result(code, out.getvalue(), err.getvalue())


def make_home(path: Path, name: str, *more: str) -> Path:
    """A new home at ``path``; returns its card."""
    result = quidnunc("--home", path, "init", "--no-input", "--name", name, *more)
    assert result.code == 0, result.err
    return path / "card.note"
