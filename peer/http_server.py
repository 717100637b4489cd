"""A small HTTP/1.1 server for one machine: one request a connection, one answer, and the connection is over.

h11 parses and writes, trio moves the bytes. Whoever is slow, says nothing, sends too much or goes away in the middle
costs one of ``CONNECTIONS_MAX`` places for ``REQUEST_S`` and ``ANSWER_S`` at most, and nobody else anything. Bodies of
requests are not read: a handler that minds them sees by :attr:`Request.has_body` that one was announced.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import trio

if TYPE_CHECKING:
    from trio_typing import TaskStatus

HEAD_BYTES_MAX = 64 * 1024
"""Request line and headers together."""
CONNECTIONS_MAX = 64
"""Served at the same time; one more is told so and closed."""
REQUEST_S = 5.0
"""How long a request line and its headers may take."""
ANSWER_S = 10.0
"""How long a client may take over an answer that is ready."""
_RECEIVE_BYTES = 8 * 1024

log = logging.getLogger("quidnunc.peer")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: method, path without a query, and whether a body was announced, whole or not."""

    method: str
    path: str
    has_body: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say: a status, a body of JSON, and headers beside those that every answer has."""

    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, value: object, status: HTTPStatus = HTTPStatus.OK) -> Answer:
        """``value`` as JSON; ValueError or TypeError if it has no such form."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return cls(status, text.encode())

    @classmethod
    def error(cls, status: HTTPStatus, why: str) -> Answer:
        """A refusal, and why."""
        return cls.of({"error": why}, status)


Handler = Callable[[Request], Awaitable[Answer]]
"""Answers one request; what it raises is logged and answered by 500."""


class _BadRequest(Exception):
    """What came is no request; the status says how."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


async def serve(
    handler: Handler, sock: socket.socket, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer whoever connects to the listening ``sock``, which is closed at the end, until cancelled."""
    room = trio.Semaphore(CONNECTIONS_MAX)
    async with trio.SocketListener(trio.socket.from_stdlib_socket(sock)) as listener:
        task_status.started()
        await trio.serve_listeners(partial(_serve_one, handler, room), [listener])


async def _serve_one(handler: Handler, room: trio.Semaphore, stream: trio.SocketStream) -> None:
    """One connection from its first byte to its end, whatever the other side does."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    try:
        try:
            room.acquire_nowait()
        except trio.WouldBlock:
            why = f"{CONNECTIONS_MAX} connections are being served, ask again"
            await _send(stream, connection, Answer.error(HTTPStatus.SERVICE_UNAVAILABLE, why))
            return
        try:
            await _converse(handler, connection, stream)
        finally:
            room.release()
    except trio.BrokenResourceError:
        pass  # it went away
    finally:
        await trio.aclose_forcefully(stream)


async def _converse(handler: Handler, connection: h11.Connection, stream: trio.SocketStream) -> None:
    try:
        request = await _receive(stream, connection)
    except _BadRequest as error:
        await _send(stream, connection, Answer.error(error.status, str(error)))
        return
    if request is not None:
        await _send(stream, connection, await _handled(handler, request), request.method)


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> Request | None:
    """The request that comes, or None when nothing does; raises _BadRequest."""
    event: object = None
    with trio.move_on_after(REQUEST_S):
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(_RECEIVE_BYTES))
        except h11.RemoteProtocolError as error:
            raise _BadRequest(HTTPStatus(error.error_status_hint), f"not a request: {error}") from None
    if event is h11.NEED_DATA and connection.trailing_data[0]:
        raise _BadRequest(HTTPStatus.REQUEST_TIMEOUT, f"no whole request in {REQUEST_S:g} s")
    return _request(event) if isinstance(event, h11.Request) else None


def _request(event: h11.Request) -> Request:
    """What a handler needs to know of a request that h11 has checked."""
    headers = dict(event.headers)
    has_body = headers.get(b"content-length", b"0").strip(b"0") != b"" or b"transfer-encoding" in headers
    return Request(event.method.decode(), event.target.decode("latin-1").partition("?")[0], has_body)


async def _handled(handler: Handler, request: Request) -> Answer:
    try:
        return await handler(request)
    except Exception:  # the boundary: an error of ours is an answer, and ends no daemon
        log.exception("%s %s failed", request.method, request.path[:100])
        return Answer.error(HTTPStatus.INTERNAL_SERVER_ERROR, "the daemon failed: its log says how")


async def _send(stream: trio.SocketStream, connection: h11.Connection, answer: Answer, method: str = "GET") -> None:
    """Send ``answer``, for as long as ANSWER_S."""
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(answer.body))),
        ("connection", "close"),
        *answer.headers,
    ]
    data = connection.send(h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers))
    assert data is not None
    if method != "HEAD":
        data += answer.body
    with trio.move_on_after(ANSWER_S):
        await stream.send_all(data)
