"""The control API on the unix socket: what ``quidnunc status`` and scripts ask a running daemon.

Whoever can open the socket (mode 0600) has full rights; there is no other authentication and no TCP listener.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from quidnunc.peer import http_server
from quidnunc.peer.files import unwritable
from quidnunc.peer.http_server import Answer, Request

if TYPE_CHECKING:
    from trio_typing import TaskStatus

SOCKET_MODE = 0o600
REQUEST_BYTES_MAX = http_server.HEAD_BYTES_MAX


class Daemon(Protocol):
    """What the API may ask of the daemon."""

    def status(self) -> dict[str, Any]:
        """The whole status, JSON-ready."""

    def peers(self) -> list[dict[str, Any]]:
        """One row per neighbor."""

    async def pause(self, paused: bool) -> None:
        """Stop or resume local training."""


def bind(path: Path) -> socket.socket:
    """A listening unix socket of mode 0600 at ``path``, which must not exist; raises StoreUnwritable."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(SOCKET_MODE)
        sock.listen(64)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise unwritable(path, error) from error
    return sock


async def serve(
    daemon: Daemon,
    sock: socket.socket,
    *,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on ``sock`` until cancelled."""
    await http_server.serve(partial(_answer, daemon), sock, task_status=task_status)


async def _health(daemon: Daemon) -> object:
    return {"ok": True}


async def _status(daemon: Daemon) -> object:
    return daemon.status()


async def _peers(daemon: Daemon) -> object:
    return {"peers": daemon.peers()}


async def _pause(daemon: Daemon) -> object:
    await daemon.pause(True)
    return {"paused": True}


async def _resume(daemon: Daemon) -> object:
    await daemon.pause(False)
    return {"paused": False}


_READ, _CHANGE = ("GET", "HEAD"), ("POST",)
_ROUTES: Mapping[str, tuple[tuple[str, ...], Callable[[Daemon], Awaitable[object]]]] = {
    "/healthz": (_READ, _health),
    "/v1/status": (_READ, _status),
    "/v1/peers": (_READ, _peers),
    "/v1/pause": (_CHANGE, _pause),
    "/v1/resume": (_CHANGE, _resume),
}
"""What there is: the methods of a path, and what answers them."""


async def _answer(daemon: Daemon, request: Request) -> Answer:
    if request.path not in _ROUTES:
        return Answer.error(HTTPStatus.NOT_FOUND, f"nothing here; there are {', '.join(_ROUTES)}")
    methods, act = _ROUTES[request.path]
    if request.method not in methods:
        allowed = ", ".join(methods)
        refused = Answer.error(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.path} takes {allowed}")
        return replace(refused, headers=(("allow", allowed),))
    # A request that ends before its body was never meant to be obeyed.
    if methods is _CHANGE and request.has_body:
        return Answer.error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{request.path} takes no body")
    return Answer.of(await act(daemon))
