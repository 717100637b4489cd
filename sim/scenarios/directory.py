"""A run directory: ``manifest.json`` says what was run and how it ended, ``metrics.jsonl`` what was measured,
``topology.json`` how the first seed's graph is drawn, and ``report.html`` shows it all.

The metrics hold nothing but what the scenario and the seeds determine: the same run on the same machine gives the same
bytes. Times and versions stand in the manifest.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from quidnunc.crypto.errors import ConfigError, StoreUnwritable

FORMAT = "quidnunc-run"
VERSION = 1
MANIFEST, METRICS, TOPOLOGY, REPORT = "manifest.json", "metrics.jsonl", "topology.json", "report.html"
NUMBERED_MAX = 10_000


def next_directory(parent: Path, name: str) -> Path:
    """``parent/name-1``, or the next number that is free."""
    for number in range(1, NUMBERED_MAX + 1):
        path = parent / f"{name}-{number}"
        if not path.exists():
            return path
    raise ConfigError(f"{parent / name}-{NUMBERED_MAX} exists already", hint="choose another place with --out")


class RunDirectory:
    """Writes one run. Raises ConfigError if ``path`` exists and is not an empty directory, StoreUnwritable later."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = {"format": FORMAT, "v": VERSION, **manifest}
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise ConfigError(f"{path} exists and is not empty", hint="choose another place with --out")
            path.mkdir(parents=True, exist_ok=True)
            self._write_manifest()
            self._metrics = (path / METRICS).open("w", encoding="ascii", newline="\n")
        except OSError as error:
            raise _unwritable(path, error) from None

    def record(self, record: dict[str, Any]) -> None:
        """One line of metrics, flushed."""
        try:
            self._metrics.write(json.dumps(record, allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def write(self, name: str, text: str) -> None:
        """A further file, replaced whole."""
        try:
            replace_file(self.path / name, text)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def finish(self, status: str, facts: dict[str, Any]) -> None:
        """Close the metrics and write the manifest's last version; ``status`` is ``complete`` or ``failed``."""
        self._manifest |= {"status": status, **facts}
        try:
            self._metrics.close()
            self._manifest["metrics_sha256"] = sha256((self.path / METRICS).read_bytes()).hexdigest()
            self._write_manifest()
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def _write_manifest(self) -> None:
        replace_file(self.path / MANIFEST, json.dumps(self._manifest, indent=2, allow_nan=False) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, replaced whole: a reader never sees half of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def _unwritable(path: Path, error: OSError) -> StoreUnwritable:
    why = (error.strerror or type(error).__name__).lower()
    return StoreUnwritable(f"{path}: cannot be written: {why}", hint="choose another place with --out")
