"""How a person names this home on a command line, for hints that can be typed as they stand."""

from __future__ import annotations

import os
import shlex

from quidnunc.peer.home import Home


def default_home() -> str:
    """``$QUIDNUNC_HOME``, else ``quidnunc`` in the user's data directory ($XDG_DATA_HOME or ~/.local/share)."""
    named = os.environ.get("QUIDNUNC_HOME")
    if named:
        return named
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "quidnunc")


def quidnunc(home: Home) -> str:
    """How the command is called for this home: ``quidnunc``, with ``--home`` unless it is the usual one."""
    usual = Home.at(default_home()).root
    return "quidnunc" if home.root == usual else f"quidnunc --home {shlex.quote(str(home.root))}"
