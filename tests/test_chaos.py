"""The chaos proxy itself does to bytes what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from chaos import Chaos, Mode


@pytest.fixture
def echo() -> Iterator[tuple[Chaos, int]]:
    """A proxy from ``a`` to ``b``, where an echo server listens."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=reply, args=(connection,), daemon=True).start()

    def reply(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    chaos = Chaos(["a", "b"], {"a": 1, "b": server.getsockname()[1]})
    with chaos.running():
        yield chaos, chaos.listening["a", "b"]
    server.close()


def ask(port: int, data: bytes, within: float = 5.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=within) as client:
        client.sendall(data)
        got = b""
        while len(got) < len(data):
            got += client.recv(4096) or b"!"
        return got


def test_each_mode_does_what_it_says_and_passing_is_restored(echo: tuple[Chaos, int]) -> None:
    chaos, port = echo
    assert ask(port, b"hello") == b"hello"
    chaos.set("a", "b", Mode.DELAY, 0.3)
    began = time.monotonic()
    assert ask(port, b"hello") == b"hello"
    assert time.monotonic() - began >= 0.3
    chaos.set("a", "b", Mode.SLOW, 1000)
    began = time.monotonic()
    assert ask(port, b"x" * 500) == b"x" * 500
    assert time.monotonic() - began >= 0.4
    chaos.set("a", "b", Mode.GARBLE)
    answer = ask(port, b"hello")
    assert sum(one != other for one, other in zip(answer, b"hello", strict=True)) == 1
    chaos.set("a", "b", Mode.CUT)
    with pytest.raises(OSError):  # noqa: PT011 - a reset or a broken pipe, as the timing has it
        ask(port, b"hello")
    chaos.heal()
    assert ask(port, b"hello") == b"hello"


def test_what_a_blackhole_holds_back_arrives_when_it_ends(echo: tuple[Chaos, int]) -> None:
    chaos, port = echo
    chaos.set("b", "a", Mode.BLACKHOLE)
    with socket.create_connection(("127.0.0.1", port), timeout=0.3) as client:
        client.sendall(b"hello")
        with pytest.raises(TimeoutError):
            client.recv(5)
        client.settimeout(5)
        chaos.heal()
        assert client.recv(5) == b"hello"


def test_a_cut_resets_connections_that_stand(echo: tuple[Chaos, int]) -> None:
    chaos, port = echo
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        chaos.link("a", "b", Mode.CUT)
        with pytest.raises(ConnectionResetError):
            client.recv(5)
