"""Check .tlog-proof files of quidnunc without quidnunc: Python's standard library and PyNaCl, nothing else.

    python verify_proof.py --log VKEY [--witness VKEY ... --quorum K] FILE...

One line per file. Exit 0: all are valid, 30: at least one is not, 32: all are, but a quorum or a payload is missing.
Written from docs/wire.md, sections 2 and 4, by the formats and not from the code: it shares no line with the program.
"""

import argparse
import base64
import hashlib
import os
import re
import sys

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey


class Invalid(Exception):
    """The file proves nothing, and why."""


def need(condition, why):
    if not condition:
        raise Invalid(why)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def unbase64(text):
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise Invalid("bad base64") from None
    need(base64.b64encode(raw).decode() == text, "base64 is not canonical")
    return raw


def unpack(data, at=0):
    """The part of canonical msgpack that proofs use: nil, unsigned integers, short str, bin, arrays of up to 15."""
    need(at < len(data), "msgpack is cut short")
    byte, at = data[at], at + 1
    if byte < 0x80 or byte == 0xC0:
        return (None if byte == 0xC0 else byte), at
    if 0x90 <= byte <= 0x9F:
        items = []
        for _ in range(byte & 15):
            need(at < len(data) and not 0x90 <= data[at] <= 0x9F, "nested arrays, or msgpack is cut short")
            item, at = unpack(data, at)
            items.append(item)
        return items, at
    size = {0xC4: 1, 0xC5: 2, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(byte, 0)
    need(size or 0xA0 <= byte <= 0xBF, "a type that does not belong into a proof")
    number, at = int.from_bytes(data[at : at + size], "big") if size else byte & 31, at + size
    least = {0xCC: 0x80, 0xC4: 0}.get(byte, 1 << (4 * size)) if size else 0
    need(number >= least and at <= len(data), "a length or an integer is not in its shortest form")
    if byte >= 0xCC:
        return number, at
    need(at + number <= len(data), "msgpack is cut short")
    raw = data[at : at + number]
    return (raw if size else raw.decode("ascii")), at + number


def parse_header(data):
    need(len(data) <= 256, "the header is too long")
    fields, end = unpack(data)
    need(end == len(data) and isinstance(fields, list), "the header is no array")
    need(len(fields) == 9 and fields[0] == 1, "the header is not of version 1")
    _, log_id, seq, prev, t_ms, kind, epoch, length, commitment = fields
    need(all(isinstance(each, bytes) and len(each) == 32 for each in (log_id, prev, commitment)), "a hash is none")
    limits = ((seq, 2**63 - 2), (t_ms, 2**64 - 1), (kind, 255), (epoch, 2**32 - 1), (length, 65535))
    need(all(isinstance(value, int) and value <= limit for value, limit in limits), "a number is out of range")
    need((seq == 0) == (prev == bytes(32)), "prev is zero in entry 0 and nowhere else")
    return log_id, seq, kind, length, commitment


def parse_note(text):
    """(text, [(name, key id, signature)]) of a signed note."""
    need(len(text.encode()) <= 16384, "the note is too long")
    need(not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), "the note holds a control character")
    body, blank, lines = text.rpartition("\n\n")
    need(blank and lines.endswith("\n"), "the note has no signature lines")
    signatures = []
    for line in lines[:-1].split("\n"):
        words = line.split(" ")
        need(len(words) == 3 and words[0] == "\u2014" and is_name(words[1]), "a signature line is malformed")
        need(len(raw := unbase64(words[2])) > 4, "a signature line is too short")
        signatures.append((words[1], raw[:4], raw[4:]))
    need(len(signatures) <= 64, "too many signature lines")
    return body + "\n", signatures


def is_name(name):
    return 0 < len(name.encode()) <= 256 and "+" not in name and not any(map(str.isspace, name))


def parse_vkey(text):
    name, identifier, key = text.split("+", 2)
    raw = base64.b64decode(key, validate=True)
    if len(raw) != 33 or sha(name.encode(), b"\n", raw)[:4].hex() != identifier:
        raise ValueError(text)
    return name, bytes.fromhex(identifier), raw[0], raw[1:]


def signed(text, signatures, vkey):
    """The times at which a key signed: [0] for a log's; a bad line under a known key spoils the note."""
    name, identifier, kind, public = vkey
    times = []
    for line_name, line_id, signature in signatures:
        if (line_name, line_id) == (name, identifier):
            message, time = text.encode(), 0
            if kind == 4:
                need(len(signature) == 72, "a cosignature is not 72 bytes")
                time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
                need(time < 2**63, "the time of a cosignature is too large")
                message = f"cosignature/v1\ntime {time}\n{text}".encode()
            try:
                need(len(signature) == 64, "a signature is not 64 bytes")
                VerifyKey(public).verify(message, signature)
            except BadSignatureError:
                raise Invalid(f"bad signature of {name}") from None
            times.append(time)
    return times


def climb(leaf, index, size, path):
    """The root above a leaf, as in RFC 9162, section 2.1.3.2."""
    node, first, last = leaf, index, size - 1
    for sibling in path:
        need(len(sibling) == 32 and last > 0, "the path is too long, or holds what is no hash")
        if first & 1 or first == last:
            node = sha(b"\x01", sibling, node)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            node = sha(b"\x01", node, sibling)
        first, last = first >> 1, last >> 1
    need(last == 0, "the path is too short")
    return node


def verify(data, log, witnesses, quorum):
    """A line of what is proven and an exit code; raises Invalid."""
    need(len(data) <= 131072, "the file is too long")
    head, blank, rest = data.decode("utf-8").partition("\n\n")
    lines = head.split("\n")
    need(blank and lines[0] == "c2sp.org/tlog-proof@v1" and len(lines) > 2, "not a proof of version 1")
    need(lines[1].startswith("extra "), "no extra line, hence no entry")
    match = re.fullmatch("index (0|[1-9][0-9]{0,18})", lines[2])
    need(match and int(match[1]) < 2**63 - 1 and len(lines) <= 3 + 63, "no proper index, or too many hashes")
    extra, path = unbase64(lines[1][6:]), [unbase64(line) for line in lines[3:]]
    entry, end = unpack(extra) if len(extra) <= 66560 else (None, 0)
    tagged = end == len(extra) and isinstance(entry, list) and len(entry) == 4 and entry[0] == "quidnunc/v1/entry"
    need(tagged and isinstance(entry[1], bytes), "the extra line is no entry of version 1")
    header, payload, salt = entry[1:]
    log_id, seq, kind, length, commitment = parse_header(header)
    if payload is not None or salt is not None:
        need(isinstance(payload, bytes) and isinstance(salt, bytes) and len(salt) == 16, "payload or salt is none")
        need(len(payload) == length, "the payload has another length")
        need(sha(b"quidnunc/v1/payload\0", salt, payload) == commitment, "the payload is another one")
    text, signatures = parse_note(rest)
    fields = text.split("\n")
    need(len(fields) == 4 and fields[3] == "" and is_name(fields[0]), "the checkpoint is not three lines")
    need(re.fullmatch("0|[1-9][0-9]{0,18}", fields[1]) and int(fields[1]) < 2**63, "the size is no size")
    size, root = int(fields[1]), unbase64(fields[2])
    need(fields[0] == log[0] == f"quidnunc/v1/{log_id.hex()}", "the proof is of another log")
    need(signed(text, signatures, log), "the log's key did not sign")
    times = sorted(min(found) for each in witnesses if (found := signed(text, signatures, each)))
    need(int(match[1]) == seq < size and len(root) == 32, "the entry is not in the tree")
    need(climb(sha(b"\0", header), seq, size, path) == root, "the path does not lead to the root")
    told = f"entry {seq} of {size}, type {kind}, {len(times)} of {len(witnesses)} witnesses"
    told += f", not after {times[quorum - 1]}" if 0 < quorum <= len(times) else ""
    return (told, 0) if len(times) >= quorum and payload is not None else (f"{told}, INCOMPLETE", 32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=parse_vkey, required=True)
    parser.add_argument("--witness", type=parse_vkey, action="append", default=[])
    parser.add_argument("--quorum", type=int, choices=range(65), metavar="K", default=0)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    codes = set()
    for name in args.files:
        try:
            need(os.path.isfile(name), "there is no such file")
            with open(name, "rb") as file:
                told, code = verify(file.read(131073), args.log, set(args.witness), args.quorum)
        except (Invalid, UnicodeDecodeError, OSError) as error:
            told, code = f"INVALID: {error}", 30
        print(f"{code}\t{name}\t{told}")
        codes.add(code)
    return max(codes - {32}, default=0) or max(codes)


if __name__ == "__main__":
    sys.exit(main())
