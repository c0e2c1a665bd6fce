"""What went wrong with a path in a guest, as the error that a client gets."""

from __future__ import annotations

import errno
import os

from gateway.errors import FieldError, GatewayError, InvalidRequest, PreconditionFailed
from gateway.errors_files import FileNotFound, FileRefused, FileTypeRefused, GuestDiskFull
from gateway.files import machine
from gateway.files.wire import Failure, FileType, Step

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def to_error(failure: Failure) -> GatewayError:
    """The error that a failure is. It names the errno, which a guest's root may have made up."""
    if failure.step is Step.AGENT:
        return machine.explain(failure.errno)
    name = errno.errorcode.get(failure.errno, str(failure.errno))
    words = os.strerror(failure.errno) if failure.errno in errno.errorcode else f"error {failure.errno}"
    if failure.errno in _FULL:
        return GuestDiskFull(f"the guest has no room for it ({words}); what stood there before still does", errno=name)
    if failure.step is Step.OWNER and failure.errno == errno.EINVAL:
        return bad_owner("user", "not_mapped", "the guest's user namespace does not map this user or group")
    if failure.step is Step.PLACE and failure.errno == errno.EEXIST:
        return exists()
    if failure.step is Step.PATH and failure.errno == errno.ENOENT:
        return FileNotFound("nothing stands at this path in the guest, or its directory does not exist")
    if failure.step is Step.PATH and failure.errno == errno.EISDIR:
        return is_a(FileType.DIRECTORY)
    return FileRefused(f"the guest's kernel refuses it: {words}", errno=name)


def is_a(found: FileType) -> FileTypeRefused:
    """For what stands there and cannot be read, written or removed like this."""
    if found is FileType.DIRECTORY:
        detail = "it is a directory: GET lists it, DELETE needs `recursive=true`"
    else:
        detail = f"it is no regular file but a {found.replace('-', ' ')}, which is not opened"
    return FileTypeRefused(detail, file_type=str(found))


def exists() -> PreconditionFailed:
    """For `If-None-Match: *` where something is there."""
    return PreconditionFailed("something stands at this path already, and `If-None-Match: *` asks that nothing does")


def bad_owner(field: str, code: str, message: str) -> InvalidRequest:
    """For a user or group that the guest does not have."""
    error = FieldError(field, code, message)
    return InvalidRequest("the guest has no such owner; see `errors`", errors=[error.to_json()])
