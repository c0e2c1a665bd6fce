"""FILE_ROUTES: the part of ROUTES that is about files in guests."""

from __future__ import annotations

from gateway.api.handlers import files
from gateway.api.models.files import DeleteQuery, DirectoryList, FileQuery, FileWritten, WriteQuery
from gateway.api.route import Route
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.errors import (
    AuditUnavailable,
    DriverUnsupported,
    GatewayError,
    GatewayRestarting,
    GuestAgentUnavailable,
    GuestFrozen,
    GuestNotRunning,
    GuestUnsupported,
    NodeNotReady,
    NotAcceptable,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
    SupervisorUnavailable,
    TooManyExecs,
)
from gateway.errors_files import (
    DigestMismatch,
    DirectoryTooLarge,
    FileNotFound,
    FileRefused,
    FileTypeRefused,
    GuestDiskFull,
    GuestFilesFailed,
    GuestFilesStalled,
    TarRefused,
)
from gateway.errors_pve import GuestLocked, PveFailed

_TO_REACH: tuple[type[GatewayError], ...] = (
    FileNotFound,
    GuestNotRunning,
    GuestFrozen,
    GuestLocked,
    GuestUnsupported,
    GuestAgentUnavailable,
    DriverUnsupported,
    FileTypeRefused,
    FileRefused,
    TooManyExecs,
    GuestFilesFailed,
    PveFailed,
    AuditUnavailable,
    SupervisorUnavailable,
    GatewayRestarting,
    NodeNotReady,
    GuestFilesStalled,
)
"""Why a file may not be reached."""

FILE_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/guests/{vmid}/files",
        operation_id="readFile",
        summary="A file in a guest, streamed, or a directory's entries as JSON; HEAD tells what there is",
        description=(
            "With `Accept: application/x-tar` a directory comes whole, as a pax archive: modes, owners by number and "
            "name, times, links and hard links. FIFOs, sockets, devices, what is mounted in it and what cannot be read "
            "are left out; a comment at the last entry, `./`, tells how many. A reply that is cut is not the whole. A "
            "container that does not run is mounted for it: that takes a second or two, and is PVE's lock `mounted`. A "
            "virtual machine's guest agent reads in pieces: no archives (`driver_unsupported`), and a file that is "
            "replaced while it is read cuts the reply."
        ),
        action=Action.FILE_READ,
        event=Event.FILE_READ,
        query=FileQuery,
        reply=DirectoryList,
        content=True,
        archive=True,
        statuses=(200, 206),
        asks=("Range", "If-Range"),
        tells=(
            "X-File-Type",
            "X-File-Mode",
            "X-File-Uid",
            "X-File-Gid",
            "X-File-User",
            "X-File-Group",
            "Last-Modified",
            "ETag",
            "Content-Digest",
            "Content-Range",
        ),
        errors=(*_TO_REACH, DirectoryTooLarge, RangeNotSatisfiable, Overloaded, NotAcceptable),
        handler=files.read_file,
    ),
    Route(
        method="PUT",
        path="/guests/{vmid}/files",
        operation_id="writeFile",
        summary="Write a file in a guest: what stood there stays until the new one is whole, and on disk",
        description=(
            "The body is the file; it is streamed, and has no limit but the guest's disk. `file:write` is root in the "
            "guest by another way. With `Content-Type: application/x-tar` it is an archive, which is unpacked into the "
            "directory at `path` as it comes: each file replaces another at once and only when it is whole, no link is "
            "followed on the way, directories that are there stay as they are, and the first entry that is refused "
            "ends it. Owners go by name where the guest has it, else by number. `mode` and If-None-Match have no place."
            " A virtual machine's guest agent writes 64 MiB at most and no archives (`driver_unsupported`)."
        ),
        action=Action.FILE_WRITE,
        event=Event.FILE_WRITE,
        query=WriteQuery,
        upload=True,
        archive=True,
        reply=FileWritten,
        statuses=(200, 201),
        asks=("Content-Digest", "If-None-Match"),
        tells=("ETag",),
        errors=(*_TO_REACH, PreconditionFailed, DigestMismatch, GuestDiskFull, TarRefused),
        handler=files.write_file,
    ),
    Route(
        method="DELETE",
        path="/guests/{vmid}/files",
        operation_id="deleteFile",
        summary="Remove a file in a guest, or with `recursive=true` a directory of a container",
        action=Action.FILE_WRITE,
        event=Event.FILE_DELETE,
        query=DeleteQuery,
        reply=None,
        statuses=(204,),
        errors=_TO_REACH,
        handler=files.delete_file,
    ),
)
