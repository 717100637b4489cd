"""The control API on the unix socket: what ``quidnunc status`` and scripts ask a running daemon.

Whoever can open the socket (mode 0600) has full rights; there is no other authentication and no TCP listener.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.config import Sockets
from hypercorn.trio.run import worker_serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from quidnunc.peer.home import unwritable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

SOCKET_MODE = 0o600
REQUEST_BYTES_MAX = 64 * 1024


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


def application(daemon: Daemon) -> Starlette:
    """The ASGI application."""

    async def status(request: Request) -> Response:
        return JSONResponse(daemon.status())

    async def peers(request: Request) -> Response:
        return JSONResponse({"peers": daemon.peers()})

    async def pause(request: Request) -> Response:
        return await paused(request, True)

    async def resume(request: Request) -> Response:
        return await paused(request, False)

    async def paused(request: Request, wanted: bool) -> Response:
        if _has_body(request):
            return JSONResponse({"error": f"{request.url.path} takes no body"}, status_code=413)
        await daemon.pause(wanted)
        return JSONResponse({"paused": wanted})

    async def health(request: Request) -> Response:
        return JSONResponse({"ok": True})

    return Starlette(
        routes=[
            Route("/healthz", health),
            Route("/v1/status", status),
            Route("/v1/peers", peers),
            Route("/v1/pause", pause, methods=["POST"]),
            Route("/v1/resume", resume, methods=["POST"]),
        ]
    )


def _has_body(request: Request) -> bool:
    """Whether a body is announced, whole or not. A request that ends before its body was never meant to be obeyed."""
    return request.headers.get("content-length", "0").strip("0") != "" or "transfer-encoding" in request.headers


async def serve(
    daemon: Daemon,
    sock: socket.socket,
    *,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on ``sock`` until cancelled."""
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 0.2
    config.keep_alive_timeout = 5
    config.include_server_header = False
    config.h11_max_incomplete_size = REQUEST_BYTES_MAX
    sockets = Sockets([], [sock], [])
    stopped = trio.Event()
    try:
        task_status.started()
        await worker_serve(
            ASGIWrapper(application(daemon)),
            config,
            sockets=sockets,
            shutdown_trigger=stopped.wait,
        )
    finally:
        stopped.set()
        sock.close()
