"""What is told of a file beside its name and its bytes: in JSON, in headers, as an ETag."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

from gateway.api.models.files import FileMetadata
from gateway.files.accounts import Accounts
from gateway.files.wire import FileType, Status

_LAST = 253402300799  # the year 9999; a guest may tell any number


def metadata(status: Status, accounts: Accounts) -> FileMetadata:
    """Its mode, owner and time, as replies have them."""
    return {
        "mode": f"{status.mode:04o}",
        "uid": status.uid,
        "gid": status.gid,
        "user": accounts.user_names.get(status.uid),
        "group": accounts.group_names.get(status.gid),
        "modified": _moment(status.mtime),
    }


def metadata_headers(status: Status, accounts: Accounts) -> dict[str, str]:
    """The same and its type, as headers; of a file its ETag, too."""
    headers = {
        "X-File-Type": str(status.type),
        "X-File-Mode": f"{status.mode:04o}",
        "X-File-Uid": str(status.uid),
        "X-File-Gid": str(status.gid),
        "Last-Modified": formatdate(min(status.mtime // 10**9, _LAST), usegmt=True),
    }
    if status.uid in accounts.user_names:
        headers["X-File-User"] = accounts.user_names[status.uid]
    if status.gid in accounts.group_names:
        headers["X-File-Group"] = accounts.group_names[status.gid]
    if status.type is FileType.FILE:
        headers |= {"ETag": etag(status), "Accept-Ranges": "bytes"}
    return headers


def etag(status: Status) -> str:
    return f'"{status.inode:x}-{status.mtime:x}-{status.size:x}"'


def _moment(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(min(nanoseconds / 10**9, _LAST), UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
