"""Every failure of a file in a guest as the gateway reports it; gateway.files.failures makes them of errno."""

from __future__ import annotations

from gateway.errors import GatewayError


class FileNotFound(GatewayError):
    """Nothing stands at this path in the guest."""

    code, status, title = "file_not_found", 404, "No such file"


class FileTypeRefused(GatewayError):
    """What stands at the path is a directory, FIFO, socket or device, named by `file_type`: it cannot be asked so."""

    code, status, title = "file_type_refused", 409, "Not that type of file"


class FileRefused(GatewayError):
    """The guest's own kernel refuses it; `errno` names why: EROFS, ENOTDIR, EPERM, ELOOP, ..."""

    code, status, title = "file_refused", 409, "Refused in the guest"


class DirectoryTooLarge(GatewayError):
    """The directory has more entries than are looked at for one listing."""

    code, status, title = "directory_too_large", 409, "Directory too large"


class DigestMismatch(GatewayError):
    """What came is not what Content-Digest promised (RFC 9530); `sha256` is what it was. Nothing was replaced, but
    by a tar: its end alone tells."""

    code, status, title = "digest_mismatch", 422, "Content-Digest does not match"


class TarRefused(GatewayError):
    """An entry of an archive is hostile, odd, or of a kind that is not made: `reason`, and `entry` where it is known.

    What came before it in the archive has been unpacked; what stood at its own path stands there still.
    """

    code, status, title = "tar_refused", 422, "Archive refused"


class GuestFilesFailed(GatewayError):
    """Our own process in the guest was ended, or something there has answered in its place."""

    code, status, title, retryable = "guest_files_failed", 502, "Lost in the guest", True


class GuestFilesStalled(GatewayError):
    """A file system of the guest has neither given nor taken a byte for too long."""

    code, status, title, retryable = "guest_files_stalled", 504, "No answer from the guest", True


class GuestDiskFull(GatewayError):
    """The guest has no room for it: ENOSPC, EDQUOT, EFBIG. What stood there before stands there still."""

    code, status, title = "guest_disk_full", 507, "No room in the guest"
