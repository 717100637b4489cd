"""Images from IDX and NPZ files, parsed by ourselves.

Sizes are checked before anything is allocated, and nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.files import read_regular

FILE_BYTES_MAX = 2 << 30
"""Largest file, and largest array after unpacking."""
NPZ_ENTRIES_MAX = 16
LABEL_MAX = 10_000
_DIMS_MAX = 4
_UBYTE = 8
_IMAGE_NAMES, _LABEL_NAMES = ("images", "x", "x_train", "inputs"), ("labels", "y", "y_train", "targets")


class Images(NamedTuple):
    """Pixels in [0, 1], float32 [n, ...], and labels, int64 [n]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def read_images(path: Path, labels: Path | None = None) -> Images:
    """The images at ``path``: an NPZ file, an IDX file with ``labels`` beside it, or a directory with one IDX pair.

    IDX files may be compressed with gzip. Raises ConfigError, naming file, value and bound.
    """
    if path.is_dir():
        path, labels = _pair(path)
    data = _read(path)
    if data.startswith(b"PK"):
        arrays = parse_npz(data, str(path))
        images, classes = _chosen(arrays, _IMAGE_NAMES, path), _chosen(arrays, _LABEL_NAMES, path)
    else:
        if labels is None:
            raise ConfigError(f"{path}: an IDX file of images needs one of labels", hint="set data.labels")
        images, classes = parse_idx(data, str(path)), parse_idx(_read(labels), str(labels))
    return _checked(images, classes, path)


def _pair(folder: Path) -> tuple[Path, Path]:
    found = {}
    for what in ("images", "labels"):
        files = sorted(folder.glob(f"*{what}*idx*"))
        if len(files) != 1:
            raise ConfigError(
                f"{folder}: {len(files)} IDX files of {what}, must be 1", hint="name them in data.path and data.labels"
            )
        found[what] = files[0]
    return found["images"], found["labels"]


def _read(path: Path) -> bytes:
    try:
        data = read_regular(path, FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"{path}: cannot be read: {why.lower()}", hint="check data.path and data.labels") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: more than {FILE_BYTES_MAX:,} bytes", hint="use a smaller data set")
    return data


def parse_idx(data: bytes, source: str = "idx") -> NDArray[np.uint8]:
    """An IDX array of unsigned bytes (LeCun's MNIST format), gzip or not. Raises ConfigError."""
    if data.startswith(b"\x1f\x8b"):
        data = _unpacked(data, source)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UBYTE or not 1 <= data[3] <= _DIMS_MAX:
        raise ConfigError(
            f"{source}: begins with {data[:4].hex() or 'nothing'}, must be 000008 and 01 to {_DIMS_MAX:02}",
            hint="an IDX file of unsigned bytes, or an NPZ file, is expected",
        )
    head = 4 + 4 * data[3]
    if len(data) < head:
        raise ConfigError(f"{source}: ends within its header", hint="copy the file again")
    shape = struct.unpack(f">{data[3]}I", data[4:head])
    if math.prod(shape) != len(data) - head:
        raise ConfigError(
            f"{source}: {len(data) - head:,} bytes of content, its header says {math.prod(shape):,}",
            hint="copy the file again",
        )
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)


def _unpacked(data: bytes, source: str) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        result = unpacker.decompress(data, FILE_BYTES_MAX + 1)
    except zlib.error:
        raise ConfigError(f"{source}: damaged gzip data", hint="copy the file again") from None
    if len(result) > FILE_BYTES_MAX:
        raise ConfigError(f"{source}: unpacks to more than {FILE_BYTES_MAX:,} bytes", hint="use a smaller data set")
    if not unpacker.eof:
        raise ConfigError(f"{source}: gzip data end too early", hint="copy the file again")
    return result


def parse_npz(data: bytes, source: str = "npz") -> dict[str, NDArray[np.generic]]:
    """The arrays of an NPZ file by lower-case name: whole numbers and floats only. Raises ConfigError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > NPZ_ENTRIES_MAX:
                raise ConfigError(
                    f"{source}: {len(entries)} arrays, at most {NPZ_ENTRIES_MAX}", hint="keep two of them"
                )
            if sum(entry.file_size for entry in entries) > FILE_BYTES_MAX:
                raise ConfigError(f"{source}: unpacks to more than {FILE_BYTES_MAX:,} bytes", hint="use fewer images")
            return {_plain(entry.filename): _array(archive, entry, source) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, UnicodeError):
        raise ConfigError(f"{source}: a damaged NPZ file", hint="write it again with numpy.savez") from None


def _plain(name: str) -> str:
    return name.removesuffix(".npy").lower()


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, source: str) -> NDArray[np.generic]:
    """One array: its header is compared with its size before memory is taken for it."""
    name = f"{source}: {entry.filename[:40]!a}"
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ConfigError(f"{name}: array format {version}, must be 1.0 or 2.0", hint="write it with numpy.savez")
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, kind = reader(stream)
    except ConfigError:
        raise
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
        raise ConfigError(f"{name}: no numpy array", hint="write it with numpy.savez") from None
    if kind.kind not in "uif" or kind.hasobject:
        raise ConfigError(f"{name}: elements of type {str(kind)[:20]}, must be numbers", hint="never pickled objects")
    if len(shape) > _DIMS_MAX + 1 or any(size < 0 for size in shape):
        raise ConfigError(f"{name}: shape {str(shape)[:60]}, at most {_DIMS_MAX + 1} dimensions", hint="flatten it")
    if math.prod(shape) * kind.itemsize != len(content) - stream.tell():
        raise ConfigError(f"{name}: shape {shape} does not fit its {len(content):,} bytes", hint="write it again")
    flat = np.frombuffer(content, dtype=kind, offset=stream.tell())
    return flat.reshape(shape, order="F" if columns_first else "C")


def _chosen(arrays: dict[str, NDArray[np.generic]], names: tuple[str, ...], path: Path) -> NDArray[np.generic]:
    for name in names:
        if name in arrays:
            return arrays[name]
    have = ", ".join(sorted(arrays))[:80] or "none"
    raise ConfigError(f"{path}: no array called {' or '.join(names)}, there are: {have}", hint=f"name it {names[0]}")


def _checked(images: NDArray[np.generic], labels: NDArray[np.generic], path: Path) -> Images:
    if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels) or len(images) < 2 or images[0].size == 0:
        raise ConfigError(
            f"{path}: images of shape {images.shape} with labels of shape {labels.shape}",
            hint="must be [n, ...] and [n] with n of at least 2",
        )
    if labels.dtype.kind not in "ui" or int(labels.min()) < 0 or int(labels.max()) > LABEL_MAX:
        raise ConfigError(f"{path}: labels must be whole numbers, 0 to {LABEL_MAX}", hint="number the classes from 0")
    pixels = images.astype(np.float32)
    if images.dtype == np.uint8:
        pixels /= np.float32(255)
    if not np.isfinite(pixels).all():
        raise ConfigError(f"{path}: pixels that are not finite", hint="replace them before")
    return Images(pixels, labels.astype(np.int64))
