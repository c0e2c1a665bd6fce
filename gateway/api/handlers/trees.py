"""Directories of guests as tar archives: GET with `Accept: application/x-tar`, PUT with that Content-Type."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from gateway.api.call import Call, Reply
from gateway.api.content_digest import read_content_digest
from gateway.api.file_session import OpenFiles, path_data
from gateway.api.headers import choose_media_type
from gateway.api.models.files import FileWritten, WriteQuery
from gateway.api.parse import read_pieces
from gateway.api.services import Services
from gateway.api.streams import take_stream
from gateway.api.tree_stream import TreeStream
from gateway.audit.record import Event
from gateway.errors import FieldError, InvalidRequest
from gateway.errors_files import DigestMismatch
from gateway.files.accounts import MAX_ID, NUMBER
from gateway.files.failures import bad_owner
from gateway.files.tar_in import TarReader, check_path
from gateway.files.tar_out import TarWriter
from gateway.files.tree import Tree, Unpacked
from gateway.files.wire import FRAME_MAX

TAR = "application/x-tar"
_OFFERED = ("application/json", "application/octet-stream", TAR)


def wants_tar(environ: Mapping[str, Any]) -> bool:
    """Whether Accept likes an archive best; who does not name it gets a list."""
    return TAR in environ.get("HTTP_ACCEPT", "") and choose_media_type(environ, _OFFERED) == TAR


def is_tar(environ: Mapping[str, Any]) -> bool:
    """Whether the body is an archive."""
    kind: str = environ.get("CONTENT_TYPE", "")
    return kind.partition(";")[0].strip().lower() == TAR


def send_tree(services: Services, call: Call, files: OpenFiles, headers: dict[str, str], holds: ExitStack) -> Reply:
    """The whole directory, as it is read."""
    accounts = files.session.accounts()
    tree = Tree(files.session, call.query.path)
    tree.send()
    holds.enter_context(take_stream(services, call))
    stream = TreeStream(files, TarWriter(tree.status, accounts), holds.pop_all())
    return Reply(stream, headers=headers, media_type=TAR)


def write_tree(services: Services, call: Call) -> Reply:
    """Unpacks the body, as it comes, into the directory."""
    query: WriteQuery = call.query
    promised = read_content_digest(call.environ)
    if query.mode is not None:
        raise invalid("mode", "not_for_tar", "an archive has a mode for each of its entries")
    if "HTTP_IF_NONE_MATCH" in call.environ:
        raise invalid("If-None-Match", "not_for_tar", "name what must not be overwritten with `keep`")
    keep = frozenset(check_path(text.encode("utf-8", "surrogateescape"), b"") for text in query.keep) - {b""}
    wish = {name: value for name, value in query.model_dump(exclude={"path"}).items() if value}
    digest, size = hashlib.sha256(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal size
        for piece in read_pieces(call.environ, FRAME_MAX):
            digest.update(piece)
            size += len(piece)
            yield piece

    with OpenFiles.begin(services, call, Event.FILE_WRITE, {**path_data(query.path), **wish, "tar": True}) as files:
        accounts = files.session.accounts()
        uid = find_owner(query.user, accounts.users, "user")
        gid = find_owner(query.group, accounts.groups, "group")
        tree, done = Tree(files.session, query.path), Unpacked()
        try:
            tree.unpack(
                TarReader(pieces()),
                accounts,
                uid=uid,
                gid=gid,
                keep=keep,
                done=done,
                before_each=call.standing.current,
            )
        finally:
            files.so_far(entries=done.entries, kept=done.kept, bytes=size, sha256=digest.hexdigest())
        if promised not in (None, digest.digest()):
            raise DigestMismatch(
                "the archive is not what Content-Digest promised, but it has been unpacked; send the right one",
                sha256=digest.hexdigest(),
            )
        files.done(entries=done.entries, kept=done.kept, bytes=size, sha256=digest.hexdigest())
    written: FileWritten = {
        "entries": done.entries,
        "kept": done.kept,
        "size": size,
        "sha256": digest.hexdigest(),
        "audit_id": files.audit_id,
    }
    return Reply(written)


def find_owner(owner: str | None, known: Mapping[str, int], field: str) -> int | None:
    """The number that a name or number is in the guest. Raises InvalidRequest."""
    if owner is None:
        return None
    if owner in known:
        return known[owner]
    if NUMBER.fullmatch(owner) and int(owner) <= MAX_ID:
        return int(owner)
    raise bad_owner(field, f"unknown_{field}", f"the guest has no {field} of this name")


def invalid(field: str, code: str, message: str) -> InvalidRequest:
    """For what does not fit to the kind of the body."""
    return InvalidRequest("the request is invalid; see `errors`", errors=[FieldError(field, code, message).to_json()])
