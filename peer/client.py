"""Ask a running daemon over its unix socket; standard library only, so that ``status`` starts fast."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from quidnunc.crypto.errors import QuidnuncError

RESPONSE_BYTES_MAX = 16 * 1024 * 1024
DEFAULT_TIMEOUT_S = 10.0


class NotReachable(QuidnuncError):
    """No daemon answers at this home."""

    exit_code = 3


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    path: Path,
    target: str,
    *,
    method: str = "GET",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    command: str = "quidnunc --home DIR",
) -> Any:
    """The JSON answer of the daemon behind the socket ``path``; raises NotReachable.

    ``command`` is how a person calls the program for this home: the hint says so.
    """
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = response.read(RESPONSE_BYTES_MAX)
        if response.status != http.client.OK:
            raise NotReachable(f"daemon at {path}: {method} {target} answered {response.status}")
        return json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotReachable(
            f"no daemon answers at {path}: {error or type(error).__name__}",
            hint=f"start it: {command} run",
        ) from error
    finally:
        connection.close()
