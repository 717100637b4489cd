"""The server of the control socket against clients that are slow, silent, rude or gone."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from quidnunc.peer import api, http_server
from quidnunc.peer.http_server import ANSWER_S, CONNECTIONS_MAX, HEAD_BYTES_MAX, REQUEST_S, Answer, Request

pytestmark = pytest.mark.trio

GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
POST = GET.replace(b"GET", b"POST")


class Echo:
    """Answers with what it was asked, and remembers it."""

    def __init__(self, size: int = 0) -> None:
        self.asked: list[Request] = []
        self._filler = "x" * size

    async def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        if request.path == "/broken":
            raise trio.BrokenResourceError
        return Answer.of({"path": request.path, "filler": self._filler})


@asynccontextmanager
async def serving(handler: Echo, path: Path) -> AsyncIterator[Path]:
    """The server at a socket inside the block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(http_server.serve, handler, api.bind(path))
        yield path
        nursery.cancel_scope.cancel()


async def rest(stream: trio.SocketStream) -> bytes:
    """All that still comes until the server closes, which it must."""
    data = b""
    with trio.fail_after(60):
        try:
            while piece := await stream.receive_some(65536):
                data += piece
        except trio.BrokenResourceError:
            pass  # closed with something of ours unread
    return data


async def said(path: Path, data: bytes) -> bytes:
    """What the server answers to ``data`` until it closes."""
    async with await trio.open_unix_socket(str(path)) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        return await rest(stream)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_one_answer_and_the_connection_is_over(tmp_path: Path) -> None:
    async with serving(Echo(), tmp_path / "s") as path:
        head, _, body = (await said(path, GET)).partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"http/1.1 200 ok"
    assert {b"connection: close", b"content-length: 25", b"content-type: application/json"} <= set(lines)
    assert body == b'{"path":"/x","filler":""}'


async def test_what_is_pipelined_behind_a_request_is_not_done(tmp_path: Path) -> None:
    echo = Echo()
    async with serving(echo, tmp_path / "s") as path:
        answer = await said(path, POST + POST.replace(b"/x", b"/y"))
    assert answer.count(b"HTTP/1.1") == 1
    assert [request.path for request in echo.asked] == ["/x"]


async def test_a_client_that_has_said_all_and_shuts_its_half_is_answered(tmp_path: Path) -> None:
    async with serving(Echo(), tmp_path / "s") as path:
        for sent, code in ((GET, 200), (GET[:-2], 400), (GET[:7], 400)):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(sent)
                await stream.send_eof()
                assert status(await rest(stream)) == code
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_eof()
            assert await rest(stream) == b""


async def test_head_and_query_are_understood(tmp_path: Path) -> None:
    echo = Echo()
    async with serving(echo, tmp_path / "s") as path:
        answer = await said(path, b"HEAD /x?y=1 HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 25" in answer.lower()
    assert echo.asked == [Request("HEAD", "/x", False)]


@pytest.mark.parametrize(
    ("headers", "announced"),
    [
        (b"", False),
        (b"Content-Length: 0\r\n", False),
        (b"Content-Length: 1\r\n", True),
        (b"Transfer-Encoding: chunked\r\n", True),
    ],
)
async def test_an_announced_body_is_seen(tmp_path: Path, headers: bytes, announced: bool) -> None:
    echo = Echo()
    async with serving(echo, tmp_path / "s") as path:
        await said(path, POST[:-2] + headers + b"\r\n")
    assert [request.has_body for request in echo.asked] == [announced]


async def test_a_head_at_the_limit_is_taken_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    begun = GET[:-2] + b"X: "
    begun += b"a" * (HEAD_BYTES_MAX - len(begun))
    echo = Echo()
    async with serving(echo, tmp_path / "s") as path:
        assert status(await said(path, begun + b"\r\n\r\n")) == 200
        assert status(await said(path, begun + b"a")) == 431
    assert len(echo.asked) == 1


async def test_connections_up_to_the_limit_are_served_and_one_more_is_told_so(tmp_path: Path) -> None:
    async with serving(Echo(), tmp_path / "s") as path:
        silent = [await trio.open_unix_socket(str(path)) for _ in range(CONNECTIONS_MAX - 1)]
        assert status(await said(path, GET)) == 200
        silent.append(await trio.open_unix_socket(str(path)))
        assert status(await said(path, GET)) == 503
        await silent.pop().send_all(GET)
        for stream in silent:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert status(await said(path, GET)) == 200


async def test_whoever_is_slow_is_cut_off(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However steadily the bytes come: what counts is the whole request."""
    async with serving(Echo(), tmp_path / "s") as path, await trio.open_unix_socket(str(path)) as stream:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in GET:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(REQUEST_S / 10)

            nursery.start_soon(drip)
            assert status(await rest(stream)) == 408
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began == pytest.approx(REQUEST_S)


async def test_whoever_says_nothing_is_let_go_without_a_word(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(Echo(), tmp_path / "s") as path, await trio.open_unix_socket(str(path)) as stream:
        assert await rest(stream) == b""
        assert trio.current_time() == pytest.approx(REQUEST_S)


async def test_whoever_does_not_read_is_let_go(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(Echo(8_000_000), tmp_path / "s") as path, await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(GET)
        await trio.sleep(ANSWER_S + 1)
        assert 0 < len(await rest(stream)) < 8_000_000


async def test_whoever_leaves_in_the_middle_of_an_answer_harms_nobody(tmp_path: Path) -> None:
    echo = Echo(8_000_000)
    async with serving(echo, tmp_path / "s") as path:
        for _ in range(3):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(GET)
                assert await stream.receive_some(10) == b"HTTP/1.1 2"
        assert len(await said(path, GET)) > 8_000_000
    assert len(echo.asked) == 4


async def test_an_error_of_the_handler_is_an_answer_and_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that looks like a client that went away."""
    caplog.set_level(logging.ERROR, "quidnunc.peer")
    async with serving(Echo(), tmp_path / "s") as path:
        answer = await said(path, GET.replace(b"/x", b"/broken"))
        assert status(answer) == 500
        assert status(await said(path, GET)) == 200
    assert "GET /broken failed" in caplog.text


async def test_the_socket_is_closed_at_the_end(tmp_path: Path) -> None:
    sock = api.bind(tmp_path / "s")
    async with trio.open_nursery() as nursery:
        await nursery.start(http_server.serve, Echo(), sock)
        nursery.cancel_scope.cancel()
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as late:
        late.connect(str(tmp_path / "s"))


FRAGMENTS = st.sampled_from(
    [
        b"GET /x HTTP/1.1\r\n",
        b"POST /x HTTP/1.0\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"Host: x\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\nConnection: upgrade\r\n",
        b" folded\r\n",
        b"\r\n",
        b"\x00",
        b"a" * (HEAD_BYTES_MAX // 2),
    ]
)


REFUSALS = {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE}


@given(pieces=st.lists(FRAGMENTS | st.binary(max_size=30), max_size=6))
async def test_whatever_comes_is_answered_or_let_go_and_the_next_is_served(pieces: list[bytes]) -> None:
    with TemporaryDirectory() as root:
        async with serving(Echo(), Path(root) / "s") as path, await trio.open_unix_socket(str(path)) as stream:
            with suppress(trio.BrokenResourceError, OSError):
                for piece in pieces:
                    await stream.send_all(piece)
                await stream.send_eof()
            answer = await rest(stream)
            assert answer == b"" or status(answer) in {200, *REFUSALS}
            assert status(await said(path, GET)) == 200


async def test_an_answer_is_json_or_an_error() -> None:
    assert Answer.of({"ö": 1.5}).body.decode() == '{"ö":1.5}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        Answer.of(float("nan"))
