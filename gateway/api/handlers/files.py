"""GET, HEAD, PUT and DELETE /guests/{vmid}/files: one path in a guest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack

from gateway.api.call import Call, Reply
from gateway.api.content_digest import read_content_digest, show_content_digest
from gateway.api.file_listing import list_directory
from gateway.api.file_metadata import etag, metadata, metadata_headers
from gateway.api.file_session import OpenFiles, path_data
from gateway.api.file_stream import FileStream
from gateway.api.handlers.trees import find_owner, invalid, is_tar, send_tree, wants_tar, write_tree
from gateway.api.models.files import DeleteQuery, FileQuery, FileWritten, WriteQuery
from gateway.api.parse import read_pieces
from gateway.api.ranges import read_range
from gateway.api.services import Services
from gateway.api.streams import take_stream
from gateway.audit.record import Event
from gateway.errors_files import DigestMismatch, GuestFilesFailed
from gateway.files.failures import exists, is_a
from gateway.files.wire import FRAME_MAX, WHOLE, FileType, Status

AT_ONCE = 1 << 20
"""What a file may have to be answered with its digest, and without a stream."""

_BYTES = "application/octet-stream"
_NEW_MODE = 0o644


def read_file(services: Services, call: Call) -> Reply:
    """The file's bytes, or the directory's entries. HEAD: what there is, without."""
    query: FileQuery = call.query
    head = call.environ["REQUEST_METHOD"] == "HEAD"
    data = path_data(query.path) | ({"head": True} if head else {})
    with ExitStack() as holds:
        files = OpenFiles.begin(services, call, Event.FILE_READ, data)
        holds.push(files.__exit__)
        status = files.session.look(query.path)
        headers = metadata_headers(status, files.session.accounts())
        if status.type is FileType.DIRECTORY and not head and wants_tar(call.environ):
            return send_tree(services, call, files, headers, holds)
        if status.type is FileType.DIRECTORY:
            page = list_directory(files.session, query, bare=head)
            files.done(entries=len(page["entries"]))
            return Reply(page, headers=headers)
        if status.type is not FileType.FILE:
            raise is_a(status.type)
        if head:
            files.done()
            return Reply(iter(()), headers={**headers, "Content-Length": str(status.size)}, media_type=_BYTES)
        return _send(services, call, files, status, headers, holds)


def _send(
    services: Services, call: Call, files: OpenFiles, status: Status, headers: dict[str, str], holds: ExitStack
) -> Reply:
    """All of a regular file, or the range that is asked for: at once where it is little, else as a stream."""
    asked = None
    if status.size and call.environ.get("HTTP_IF_RANGE", headers["ETag"]) == headers["ETag"]:
        asked = read_range(call.environ.get("HTTP_RANGE"), status.size)
    start, end = asked or (0, status.size)
    # What the kernel makes up as it is read (/proc) says that it has no bytes.
    opened = files.session.open(call.query.path, start, end - start if status.size else WHOLE)
    if opened != status and opened.size < end:
        raise GuestFilesFailed("the file was changed while it was looked at; send the request again")
    code, told = 200, dict[str, int]()
    if asked is not None:
        code, told = 206, {"offset": start}
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{status.size}"
    first, whole = _read_first(files.session.content())
    if whole and asked is not None and len(first) != end - start:
        raise GuestFilesFailed("the file was cut short while it was read; send the request again")
    if whole:
        digest = hashlib.sha256(first)
        files.done(**told, bytes=len(first), sha256=digest.hexdigest())
        headers["Content-Digest"] = show_content_digest(digest.digest())
        return Reply(first, status=code, headers=headers, media_type=_BYTES)
    size = end - start if status.size else None
    if size is not None:
        headers["Content-Length"] = str(size)
    holds.enter_context(take_stream(services, call))
    stream = FileStream(files, first, size, told, holds.pop_all())
    return Reply(stream, status=code, headers=headers, media_type=_BYTES)


def _read_first(content: Iterator[bytes]) -> tuple[bytes, bool]:
    """The first MiB, and whether that is all."""
    first = bytearray()
    for piece in content:
        first += piece
        if len(first) > AT_ONCE:
            return bytes(first), False
    return bytes(first), True


def write_file(services: Services, call: Call) -> Reply:
    """Takes the body as it comes into a file that nobody sees, and puts that in its place once it is whole."""
    query: WriteQuery = call.query
    if is_tar(call.environ):
        return write_tree(services, call)
    if query.keep:
        raise invalid("keep", "not_a_tar", "it is for an archive: send Content-Type: application/x-tar")
    promised = read_content_digest(call.environ)
    exclusive = call.environ.get("HTTP_IF_NONE_MATCH", "").strip() == "*"
    wish = {name: value for name, value in query.model_dump(exclude={"path", "keep"}).items() if value is not None}
    data = {**path_data(query.path), **wish, **({"new": True} if exclusive else {})}
    with OpenFiles.begin(services, call, Event.FILE_WRITE, data) as files:
        session = files.session
        accounts = session.accounts()
        uid = find_owner(query.user, accounts.users, "user")
        gid = find_owner(query.group, accounts.groups, "group")
        old = session.begin_write(query.path, _announced(call))
        if old is not None and exclusive:
            raise exists()
        digest, size = hashlib.sha256(), 0
        for piece in read_pieces(call.environ, FRAME_MAX):
            digest.update(piece)
            size += len(piece)
            session.write(piece)
            call.standing.current()
        if promised not in (None, digest.digest()):
            raise DigestMismatch(
                "the body is not what Content-Digest promised, so nothing was replaced; send it again",
                sha256=digest.hexdigest(),
            )
        call.standing.current()
        files.acts()
        status = session.commit(
            mode=int(query.mode, 8) if query.mode is not None else old.mode if old is not None else _NEW_MODE,
            uid=uid if uid is not None else old.uid if old is not None else 0,
            gid=gid if gid is not None else old.gid if old is not None else 0,
            exclusive=exclusive,
        )
        files.done(bytes=size, sha256=digest.hexdigest(), created=old is None)
    stands = metadata(status, accounts)
    written: FileWritten = {
        "size": status.size,
        "sha256": digest.hexdigest(),
        "audit_id": files.audit_id,
        "created": old is None,
        "mode": stands["mode"],
        "uid": stands["uid"],
        "gid": stands["gid"],
        "user": stands["user"],
        "group": stands["group"],
        "modified": stands["modified"],
    }
    return Reply(written, status=201 if old is None else 200, headers={"ETag": etag(status)})


def _announced(call: Call) -> int:
    """How large the body says it is; 0 where it does not."""
    said: str = call.environ.get("CONTENT_LENGTH") or ""
    return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0


def delete_file(services: Services, call: Call) -> Reply:
    """Removes it."""
    query: DeleteQuery = call.query
    data = {**path_data(query.path), **({"recursive": True} if query.recursive else {})}
    with OpenFiles.begin(services, call, Event.FILE_DELETE, data) as files:
        files.acts()
        files.session.remove(query.path, recursive=query.recursive)
        files.done()
    return Reply(b"", status=204)
