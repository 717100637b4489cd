"""The control API as its clients meet it: a real unix socket, real requests, good and bad."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from cli_helpers import make_home, quidnunc
from founders import charter

from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.peer import api, health, waiting
from quidnunc.peer.client import NotReachable, ask
from quidnunc.peer.home import Home

pytestmark = pytest.mark.trio


class Puppet:
    """A daemon that only remembers what it was told."""

    def __init__(self) -> None:
        self.paused: list[bool] = []
        self.broken = False

    def status(self) -> dict[str, Any]:
        if self.broken:
            raise ZeroDivisionError
        return {"name": "Hôpital A", "round": 7}

    def peers(self) -> list[dict[str, Any]]:
        return [{"name": "B"}, {"name": "C"}]

    async def pause(self, paused: bool) -> None:
        self.paused.append(paused)


@asynccontextmanager
async def serving(puppet: Puppet, path: Path) -> AsyncIterator[None]:
    """The API of ``puppet`` at ``path`` inside the block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(api.serve, puppet, api.bind(path))
        yield
        nursery.cancel_scope.cancel()


async def asked(path: Path, target: str, **options: Any) -> Any:
    return await trio.to_thread.run_sync(partial(ask, path, target, **options))


async def raw(path: Path, *pieces: bytes) -> bytes:
    """Whatever the daemon answers to these bytes until it closes; bounded, since it may not close."""
    stream = await trio.open_unix_socket(str(path))
    answer = b""
    with trio.move_on_after(10):
        try:
            for piece in pieces:
                await stream.send_all(piece)
            async for chunk in stream:
                answer += chunk
        except trio.BrokenResourceError:
            pass
    await stream.aclose()
    return answer


async def test_status_peers_pause_and_resume(tmp_path: Path) -> None:
    puppet, path = Puppet(), tmp_path / "s"
    async with serving(puppet, path):
        assert await asked(path, "/v1/status") == {"name": "Hôpital A", "round": 7}
        assert await asked(path, "/v1/peers") == {"peers": [{"name": "B"}, {"name": "C"}]}
        assert await asked(path, "/healthz") == {"ok": True}
        assert await asked(path, "/v1/pause", method="POST") == {"paused": True}
        assert await asked(path, "/v1/resume", method="POST") == {"paused": False}
        assert puppet.paused == [True, False]


async def test_the_socket_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    previous = os.umask(0)
    try:
        async with serving(Puppet(), path):
            found = path.stat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == 0o600
    finally:
        os.umask(previous)


async def test_pause_and_resume_are_commands(tmp_path: Path) -> None:
    """Regression: run --paused named the control API, and no command spoke to it."""
    make_home(tmp_path / "a", "A")
    home, puppet = Home.at(tmp_path / "a"), Puppet()
    with home.lock():
        async with serving(puppet, home.prepare_socket()):
            for verb, paused in (("pause", True), ("pause", True), ("resume", False)):
                result = await trio.to_thread.run_sync(quidnunc, "--home", home.root, "--json", verb)
                assert result.data == {"paused": paused}
            told = await trio.to_thread.run_sync(quidnunc, "--home", home.root, "pause")
            assert "go on with: quidnunc resume" in told.out
        assert puppet.paused == [True, True, False, True]
        home.remove_socket()
        assert (await trio.to_thread.run_sync(quidnunc, "--home", home.root, "pause")).code == 11, "starting"
    assert (await trio.to_thread.run_sync(quidnunc, "--home", home.root, "resume")).code == 3


async def test_a_pause_that_comes_before_there_is_room_holds_for_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was acknowledged and forgotten."""
    free = 0
    monkeypatch.setattr(waiting, "LOOK_S", 0.01)
    monkeypatch.setattr(health, "free_bytes", lambda paths: free)
    home, rules = Home.at(tmp_path), charter(2)
    told: list[bool | None] = []

    async def start() -> None:
        told.append(await waiting.wait_for_room(home, rules, rules.members[0], health.Room((tmp_path,), 100)))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            while not home.socket().exists():
                await trio.sleep(0.001)
            assert await asked(home.socket(), "/v1/pause", method="POST") == {"paused": True}
            free = 1000
    await start()
    assert told == [True, None]


async def test_a_change_needs_a_post_and_a_wrong_path_is_not_found(tmp_path: Path) -> None:
    puppet, path = Puppet(), tmp_path / "s"
    async with serving(puppet, path):
        for target, method, code in (
            ("/v1/pause", "GET", 405),
            ("/v1/status", "POST", 405),
            ("/v1/nothing", "GET", 404),
            ("/../etc/passwd", "GET", 404),
            ("/", "GET", 404),
        ):
            with pytest.raises(NotReachable, match=f"answered {code}"):
                await asked(path, target, method=method)
        assert puppet.paused == []


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 4\r\n\r\n{  }",
        b"Content-Length: 400\r\n\r\n{",
        b"Content-Length: 99999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\n{  }\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\n{",
    ],
    ids=["whole", "half", "huge", "chunked", "half a chunk"],
)
async def test_a_body_is_refused_and_nothing_is_done(tmp_path: Path, verb: str, rest: bytes) -> None:
    """Regression: a request to pause was obeyed whatever came with it, before it was all there."""
    puppet, path = Puppet(), tmp_path / "s"
    async with serving(puppet, path):
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(f"POST /v1/{verb} HTTP/1.1\r\nHost: x\r\n".encode() + rest)
        with trio.fail_after(10):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 413")
        await stream.aclose()
        assert puppet.paused == []
        assert await asked(path, f"/v1/{verb}", method="POST") == {"paused": verb == "pause"}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (2 * api.REQUEST_BYTES_MAX) + b"\r\n\r\n",
        b"GET /" + b"a" * (2 * api.REQUEST_BYTES_MAX) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\xff" * api.REQUEST_BYTES_MAX,
        b"GET /v1/status QTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1_000_000,
        b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ],
    ids=["header", "target", "garbage", "version", "body", "length"],
)
async def test_oversized_and_malformed_requests_are_refused_and_the_next_is_served(
    tmp_path: Path, request_bytes: bytes
) -> None:
    path = tmp_path / "s"
    async with serving(Puppet(), path):
        answer = await raw(path, request_bytes)
        assert not answer.startswith(b"HTTP/1.1 200")
        assert (await asked(path, "/v1/status"))["round"] == 7


async def test_a_client_that_says_nothing_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(Puppet(), path):
        silent = [await trio.open_unix_socket(str(path)) for _ in range(50)]
        await silent[0].send_all(b"GET /v1/sta")
        assert (await asked(path, "/v1/status"))["round"] == 7
        for stream in silent:
            await stream.aclose()


async def test_an_error_of_ours_is_an_answer_and_not_the_end(tmp_path: Path) -> None:
    puppet, path = Puppet(), tmp_path / "s"
    async with serving(puppet, path):
        puppet.broken = True
        with pytest.raises(NotReachable, match="answered 500"):
            await asked(path, "/v1/status")
        puppet.broken = False
        assert (await asked(path, "/v1/status"))["round"] == 7


async def test_nothing_answers_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(Puppet(), path):
        await asked(path, "/healthz")
    with pytest.raises(NotReachable, match="no daemon answers"):
        await asked(path, "/healthz")


async def test_the_client_names_the_socket_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotReachable) as missing:
        await asked(tmp_path / "s", "/v1/status")
    assert str(tmp_path / "s") in missing.value.message
    assert "run" in missing.value.hint


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnot", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n"],
    ids=["closed", "not json", "not http", "half"],
)
async def test_the_client_survives_whatever_answers(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "s"

    async def reply(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if answer:
                await stream.send_all(answer)

    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, reply, [trio.SocketListener(sock)]))
        with pytest.raises(NotReachable):
            await asked(path, "/v1/status", timeout_s=5.0)
        nursery.cancel_scope.cancel()


async def test_the_client_gives_up_on_a_daemon_that_hangs(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with api.bind(path), pytest.raises(NotReachable):
        await asked(path, "/v1/status", timeout_s=0.2)


async def test_a_socket_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "s"
    with pytest.raises(StoreUnwritable, match=str(path)):
        api.bind(path)


async def test_answers_are_json_with_its_media_type(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(Puppet(), path):
        answer = await raw(path, b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    assert b"hypercorn" not in head.lower()
    assert json.loads(body)["round"] == 7
