"""The bytes of a file to its text: what is no delimited text is told by its kind, another encoding by its name."""

from __future__ import annotations

import re

from quidnunc.gossip.tabular.findings import Code, DataFault, Finding

ENCODINGS = ("utf-8", "utf-16", "latin-1", "cp1252")

_HEAD = 512
"""Bytes, from the first on, that are looked at to tell UTF-16 and UTF-32 without a mark."""

_SAVE = "save the sheet as CSV (UTF-8)"
_EXPORT = "export the table as CSV (UTF-8)"
_UNPACK = "unpack it first"
_BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", _SAVE),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", _SAVE),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh91AY&SY", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"%PDF", "a PDF document", _EXPORT),
    (b"{\\rtf", "an RTF document", _EXPORT),
    (b"PAR1", "a Parquet file", "name it where Parquet is read"),
    (b"SQLite format 3\x00", "an SQLite database", _EXPORT),
    (b"$FL2", "an SPSS file", _EXPORT),
    (b"<stata_dta>", "a Stata file", _EXPORT),
    (b"ARROW1\x00", "an Arrow file", "write it as Parquet or CSV"),
)
_JSON = re.compile(r'\s*(?:\[\s*[\[{]|\{\s*"|[\[{]\s*\n)')
_MARKUP = re.compile(r"\s*<(?:!|\?xml|[A-Za-z][\w:.-]*[\s>/])")


def decode_text(data: bytes, encoding: str = "utf-8") -> str:
    """The text of a file, without its byte order mark. Raises DataFault (not_text, wrong_encoding, empty_file)."""
    if not data.strip():
        raise DataFault(Finding(Code.EMPTY_FILE, "the file is empty", "export the table again"))
    for magic, kind, remedy in _BINARY:
        if data.startswith(magic):
            raise DataFault(_no_table(kind, remedy))
    _check_encoding(data, encoding)
    # Without a mark the decoder takes the order of this machine; the first letter tells that of the file.
    codec = "utf-16-be" if encoding == "utf-16" and data[0] == 0 else encoding
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise DataFault(_undecodable(data, error, encoding)) from None
    # Some programs write the mark twice, and old ones of DOS a last Ctrl-Z.
    text = text.lstrip("\ufeff").rstrip("\x1a")
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise DataFault(Finding(Code.NOT_TEXT, "holds a zero byte, must be delimited text", _EXPORT, row))
    if not text.strip():
        raise DataFault(Finding(Code.EMPTY_FILE, "the file is empty", "export the table again"))
    if _JSON.match(text):
        raise DataFault(_no_table("JSON", _EXPORT))
    if _MARKUP.match(text):
        raise DataFault(_no_table("HTML or XML", _EXPORT))
    return text


def _no_table(kind: str, remedy: str) -> Finding:
    return Finding(Code.NOT_TEXT, f"the file is {kind}, must be delimited text", remedy)


def _check_encoding(data: bytes, encoding: str) -> None:
    """Raise DataFault where the bytes are plainly of another encoding than the one stated."""
    found = _wide(data)
    if not found and encoding == "utf-16" and b"\0" not in data:
        # Delimiters and line ends are ASCII: in UTF-16 each of them has a zero byte.
        found = "utf-8" if _is_utf8(data) else "latin-1"
    if not found and encoding in ("latin-1", "cp1252") and not data.isascii() and b"\0" not in data and _is_utf8(data):
        # Eight-bit encodings read any bytes: without this, two wrong letters would stand for each accented one.
        found = "utf-8"
    if found and found != encoding:
        remedy = encoding_remedy(found) if found in ENCODINGS else "save it as UTF-8"
        what = f"the file is {found.upper()} text, must be {encoding}"
        raise DataFault(Finding(Code.WRONG_ENCODING, what, remedy, value=found, bound=encoding))


def _undecodable(data: bytes, error: UnicodeDecodeError, encoding: str) -> Finding:
    row = data.count(b"\n", 0, error.start) + 1
    byte = f"0x{data[error.start]:02x}"
    if b"\0" in data and encoding != "utf-16":
        return Finding(Code.NOT_TEXT, "holds zero bytes, must be delimited text", _EXPORT)
    guess = "cp1252" if encoding == "utf-8" else "utf-8"
    what = f"byte {byte} is not {encoding}"
    return Finding(Code.WRONG_ENCODING, what, encoding_remedy(guess), row, "", byte, encoding)


def encoding_remedy(encoding: str) -> str:
    """What to do about a file that is in ``encoding`` while another is stated."""
    if encoding == "utf-8":
        return "leave encoding out under [data.options] in config.toml (--encoding utf-8), or save the file anew"
    return f'save it as UTF-8, or set encoding = "{encoding}" under [data.options] in config.toml (--encoding)'


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _wide(data: bytes) -> str:
    """``utf-16`` or ``utf-32`` by the mark, or by where Latin text in it has its zero bytes; else nothing."""
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    head = data[:_HEAD]
    for width, name in ((4, "utf-32"), (2, "utf-16")):
        units = len(head) // width
        zeros = [head[place : units * width : width].count(0) for place in range(width)]
        # One byte of every unit is the letter: first or last of it. In what is mostly zeros, none is.
        letters = min(zeros[0], zeros[-1])
        if units >= 4 and sum(zeros) - letters >= 0.9 * units * (width - 1) and letters <= 0.1 * units:
            return name
    return ""
