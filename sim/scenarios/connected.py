"""A Ray cluster, reached or started; the extra ``[ray]``."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quidnunc.crypto.errors import ConfigError

LOCAL = "local"
"""In place of an address: start Ray here."""
KNOCK_S = 5.0


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at a host and port: Ray would try for minutes, then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_S).close()


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected for the time of the block."""
    # Ray reports how it is used to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--ray: Ray is not installed", hint="pip install 'quidnunc[ray]', or leave --ray out for --jobs"
        ) from None
    try:
        _knock(address)
        if address == LOCAL:
            ray.init(include_dashboard=False, log_to_driver=False)
        else:
            ray.init(address=address, log_to_driver=False)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray {address}: {str(error).splitlines()[0][:200]}",
            hint="give the address that ray start --head has printed, auto, or local",
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()
