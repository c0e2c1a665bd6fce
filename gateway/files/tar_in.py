"""TarReader: the entries of a tar archive that comes in pieces; what is hostile or odd is refused, nothing piles up."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.errors_files import TarRefused

MAX_HEADERS = 64 << 10
"""Bytes of the extended headers of one entry."""
MAX_TAR_ENTRIES = 100_000

_BLOCK = 512
_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_KINDS = {tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "name"}


@dataclass(frozen=True)
class Entry:
    """`kind`: file, directory, link (symbolic), or name (another one for the file at `target`, which is a path of the
    archive). `path` has no `.` in it, and is empty for the root itself; `mtime` in nanoseconds."""

    kind: str
    path: bytes
    target: bytes
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    mtime: int
    size: int


class TarReader:
    """Reads ustar, pax and GNU's long names. Raises TarRefused, which names the entry and the reason."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._left = 0
        self._padding = 0

    def entries(self) -> Iterator[Entry]:
        """Each entry; its content is there until the next is asked for."""
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > MAX_TAR_ENTRIES:
                raise refuse("too_many", f"it has more than {MAX_TAR_ENTRIES} entries; send it in parts", entry.path)
            yield entry
            for _ in self.content():
                pass
            self._take(self._padding)
        for _ in self._pieces:  # padding behind the end
            pass

    def content(self) -> Iterator[bytes]:
        """The rest of the bytes of the entry that was given last."""
        while self._left:
            piece = self._some(self._left)
            self._left -= len(piece)
            yield piece

    def _next(self) -> Entry | None:
        told: dict[str, bytes] = {}
        room = MAX_HEADERS
        while True:
            try:
                info = tarfile.TarInfo.frombuf(self._take(_BLOCK), "utf-8", "surrogateescape")
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros
                return None
            except (tarfile.HeaderError, ValueError) as exc:
                raise refuse("malformed", "this is no tar archive, or a broken one") from exc
            if info.type not in (tarfile.XHDTYPE, tarfile.XGLTYPE, *tarfile.GNU_TYPES[:2]):
                return self._make(info, told)
            if not 0 <= info.size <= room:
                raise refuse("headers_too_large", f"the headers of an entry are more than {MAX_HEADERS} bytes")
            room -= info.size
            body = self._take(info.size)
            self._take(-info.size % _BLOCK)
            if info.type == tarfile.XHDTYPE:
                told |= _read_pax(body)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                told["path"] = body.rstrip(b"\x00")
            elif info.type == tarfile.GNUTYPE_LONGLINK:
                told["linkpath"] = body.rstrip(b"\x00")

    def _make(self, info: tarfile.TarInfo, told: dict[str, bytes]) -> Entry:
        name = told.get("path", _raw(info.name))
        path = check_path(name, name)
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in told):
            raise refuse("sparse", "it is stored as a sparse file; make the archive without --sparse", name)
        kind = "file" if info.type in _FILES else _KINDS.get(info.type)
        if info.type == tarfile.AREGTYPE and name.endswith(b"/"):
            kind = "directory"
        if kind is None:
            raise refuse("device", "it is no file, directory or link: devices and FIFOs are not made", name)
        target = told.get("linkpath", _raw(info.linkname))
        if kind in ("link", "name") and (not target or b"\x00" in target):
            raise refuse("malformed", "it leads nowhere", name)
        if not path and kind != "directory":
            raise refuse("malformed", "it has no name", name)
        size = _number(told, "size", info.size, name)
        uid, gid = _number(told, "uid", info.uid, name), _number(told, "gid", info.gid, name)
        if max(uid, gid) >= 2**32 - 1:
            raise refuse("malformed", "its owner is no number that the kernel has", name)
        self._left = size if kind == "file" else 0
        self._padding = -self._left % _BLOCK
        return Entry(
            kind=kind,
            path=path,
            target=check_path(target, name) if kind == "name" else target,
            mode=info.mode & 0o7777,
            uid=uid,
            gid=gid,
            user=_show(told.get("uname", _raw(info.uname))),
            group=_show(told.get("gname", _raw(info.gname))),
            mtime=_moment(told.get("mtime"), int(info.mtime), name),
            size=self._left,
        )

    def _take(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            parts += self._some(size - len(parts))
        return bytes(parts)

    def _some(self, most: int) -> bytes:
        while self._at >= len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                raise refuse("cut", "the archive ends before its end; what came before it has been unpacked")
            self._piece, self._at = piece, 0
        start, self._at = self._at, min(self._at + most, len(self._piece))
        return self._piece[start : self._at]


def check_path(path: bytes, entry: bytes) -> bytes:
    """A path of the archive without its `.`; raises TarRefused for one that could lead out of it."""
    if path.startswith(b"/"):
        raise refuse("absolute", "it has an absolute path; make the archive with relative ones", entry)
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise refuse("climbs", "it has `..` in its path", entry)
    if b"\x00" in path or len(path) > 4095:
        raise refuse("malformed", "its path is none", entry)
    return b"/".join(parts)


def refuse(reason: str, words: str, entry: bytes | None = None) -> TarRefused:
    """For an archive, or an entry of it."""
    if entry is None:
        return TarRefused(words, reason=reason)
    return TarRefused(words, reason=reason, entry=_show(entry)[:4096])


def _read_pax(body: bytes) -> dict[str, bytes]:
    """The records of an extended header: `length key=value\\n`."""
    told: dict[str, bytes] = {}
    while body:
        length, space, _ = body.partition(b" ")
        size = int(length) if space and length.isdigit() and len(length) < 7 else 0
        key, equals, value = body[len(length) + 1 : size - 1].partition(b"=")
        if size <= len(length) + 1 or size > len(body) or body[size - 1 : size] != b"\n" or not equals:
            raise refuse("malformed", "an extended header is broken")
        told[_show(key)] = value
        body = body[size:]
    return told


def _number(told: dict[str, bytes], key: str, otherwise: int, entry: bytes) -> int:
    text = told.get(key)
    if text is not None and (not text.isdigit() or len(text) > 18):
        raise refuse("malformed", f"its {key} is no number", entry)
    number = int(text) if text is not None else otherwise
    if not 0 <= number < 1 << 62:
        raise refuse("malformed", f"its {key} is no number", entry)
    return number


def _moment(text: bytes | None, otherwise: int, entry: bytes) -> int:
    seconds, _, fraction = (text if text is not None else b"%d" % otherwise).partition(b".")
    if seconds.startswith(b"-"):
        return 0
    if not seconds.isdigit() or len(seconds) > 18 or (fraction and not fraction.isdigit()):
        raise refuse("malformed", "its mtime is no number", entry)
    return min(int(seconds), 2**33) * 10**9 + int(fraction[:9].ljust(9, b"0"))


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _show(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
