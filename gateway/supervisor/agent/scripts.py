"""What is run in a virtual machine for its files: shell scripts, what they are given, and what they say.

Paths travel as the octal escapes of printf(1), for PVE passes on nothing but ASCII in arguments; content goes in by
stdin and comes out by stdout. A new file grows in a directory of its own that only root may enter: each command enters
it anew and looks at its inode first, so that whoever owns the directory around it can neither plant a link in it nor
have another one written to. All that comes back is untrusted.
"""

from __future__ import annotations

import errno
import re

from gateway.files.accounts import MAX_ID
from gateway.files.machine import Cause
from gateway.files.wire import Failure, Status, Step

PIECE_IN = 64 << 10
"""Bytes of content that a command is given: what PVE takes as `input-data`."""
PIECE_OUT = 512 << 10
"""Bytes of content that a command gives: PVE's QMPClient looks at all that has come again with each piece of it."""
SECONDS = 15
"""After so long the machine itself ends a command of ours."""
_MAX_PATH = 8192
_BEGIN = """\
LC_ALL=C; PATH=${PATH:-/bin}:/usr/sbin:/usr/bin:/sbin:/bin; export LC_ALL PATH; umask 077
f='%f %u %g %h %s %i %d %Y %y'
d() { v=$(printf '%b.' "$1"); v=${v%.}; }
fail() { r=$?; [ $r -ge 126 ] && exit $r; exit $((50 + $1)); }
d "$1"
"""
_ENTER = """\
cd -P "$v" 2>/dev/null && [ "$(stat -c '%d %i' .)" = "$2" ] || exit 8
"""

LOOK = f"""{_BEGIN}
stat ${{2:+"$2"}} -c "$f" "$v" || fail 0
[ "$2" ] || [ ! -L "$v" ] || readlink -n "$v" || fail 0
"""
"""path, `-L` or nothing: a status, and behind it where a link itself leads."""

ACCOUNTS = f"""{_BEGIN}
for a in /etc/passwd /etc/group; do [ -f $a ] && stat -L -c "$f" $a || echo; done
for a in /etc/passwd /etc/group; do [ -f $a ] && head -c "$2" $a; printf '\\0'; done
"""
"""nothing, how many bytes of each: two lines with their statuses, empty for none; what is in them, each with a NUL."""

READ = f"""{_BEGIN}
[ -f "$v" ] || {{ stat -L -c "$f" "$v" || fail 0; exit 0; }}
command exec 3<"$v" || fail 0
stat -L -c "$f" /proc/self/fd/3 || fail 0
[ -f /proc/self/fd/3 ] || exit 0
dd bs=64k iflag=skip_bytes,count_bytes,fullblock skip="$2" count="$3" status=none <&3 || fail 2
echo
stat -L -c "$f" /proc/self/fd/3 || fail 0
"""
"""path, offset, length: a status; of a regular file so many bytes, too, and its status after that."""

NAMES = f"""{_BEGIN}
stat -L -c "$f" "$v" || fail 0
[ -d "$v" ] || exit 0
cd -P "$v" 2>/dev/null || exit 8
find . ! -name . -prune -print0 || fail 0
"""
"""path: its status, and of a directory its names, each as `./name` and a NUL."""

STATUSES = f"""{_BEGIN}
cd -P "$v" 2>/dev/null || exit 8
while read -r n; do
d "$n"
stat -c "$f" "./$v" 2>/dev/null || echo
[ ! -L "./$v" ] || readlink -n "./$v"
printf '\\0'
done
"""
"""path, and by stdin names, a line each: for each a line with its status, or empty, its target, and a NUL."""

BEGIN_WRITE = f"""{_BEGIN}
w=$2 i=
if s=$(stat -L -c "$f" "$v" 2>&1); then
  case "$s" in 8???' '*) ;; *) printf '%s\\n' "$s"; exit 0;; esac
  set -- $s
  i="$7 $6"
  if [ -L "$v" ]; then v=$(readlink -f "$v" && echo .) || exit 8; v=${{v%?}}; v=${{v%?}}; fi
else
  r=$?
  case "$s" in
    *'o such file or directory') [ ! -L "$v" ] || exit 60; s=-;;
    *) printf '%s\\n' "$s" >&2; [ $r -ge 126 ] && exit $r; exit 50;;
  esac
fi
n=${{v##*/}}
cd -P "${{v%/*}}/" 2>/dev/null || {{ stat -L -c "$f" "${{v%/*}}/." >/dev/null || fail 0; exit 8; }}
[ -z "$i" ] || [ "$(stat -c '%d %i' "./$n")" = "$i" ] || exit 8
p=$(pwd -P && echo .); p=${{p%?}}; p=${{p%?}}
mkdir -m 700 ".pveg-$w" || fail 1
u=$(id -u)
cd -P ".pveg-$w" && [ "$(pwd -P)" = "${{p%/}}/.pveg-$w" ] || exit 8
case "$(stat -c '%u %a' .)" in "$u 700"|"$u 2700") ;; *) exit 8;; esac
if true >new && i=$(stat -c '%d %i' .); then
  printf '%s\\n%s\\n%s\\0%s' "$s" "$i" "${{p%/}}/.pveg-$w" "$n"
else
  r=$?; rm -f new; cd .. && rmdir ".pveg-$w"; (exit $r); fail 1
fi
"""
"""path, a random word: what stands there (`-` for nothing), and where that is nothing or a regular file the place of
the new one: the inode of its directory, that directory, and the name that it shall have."""

APPEND = f"""{_BEGIN}{_ENTER}
[ "$(stat -c %s new)" = "$3" ] || exit 8
cat >>new || fail 2
dd if=new bs=64k iflag=skip_bytes skip="$3" status=none | sha256sum
"""
"""directory, its inode, the size so far; content by stdin: the digest of what has been added."""

COMMIT = f"""{_BEGIN}{_ENTER}
[ "$(stat -c %s new)" = "$3" ] || exit 8
chown "$4:$5" new || fail 3
chmod "$6" new || fail 4
dd if=/dev/null of=new conv=notrunc,fsync status=none || fail 2
d "$7"
stat -c "$f" new || fail 5
if [ "$8" ]; then link new "../$v" || fail 5; rm -f new; else mv -fT new "../$v" || fail 5; fi
b=${{PWD##*/}}
cd .. && rmdir "./$b" && {{ sync . 2>/dev/null || sync; }} || exit 61
"""
"""directory, its inode, size, uid, gid, mode, name, `new` if nothing may stand there: the status that it has now."""

DROP = f"""{_BEGIN}{_ENTER}
rm -f new
b=${{PWD##*/}}
cd .. && rmdir "./$b"
"""
"""directory, its inode: it is gone, with what is in it."""

DROP_LATER = f"""{_BEGIN}{_ENTER}
case "$v" in */.pveg-????????????????) ;; *) exit 8;; esac
p=$(pwd -P && echo .); p=${{p%?}}; p=${{p%?}}
[ "$p" = "$v" ] && [ ! -L "$v" ] || exit 8
u=$(id -u)
case "$(stat -c '%u %a' .)" in "$u 700"|"$u 2700") ;; *) exit 8;; esac
rm -f new
b=${{PWD##*/}}
cd .. && rmdir "./$b"
"""
"""The same, long after: nothing but a directory of ours, in that very place, for the inode may be another's by then."""

UNLINK = f"""{_BEGIN}
unlink "$v" || fail 0
"""
"""path: it is gone."""


def command(script: str, *arguments: str) -> list[str]:
    """What the agent is to run; `arguments` are ASCII, paths by `escape`."""
    return ["timeout", "-s", "KILL", str(SECONDS), "sh", "-c", script, "pveg", *arguments]


def escape(path: bytes) -> str:
    """A path, or a name, as an argument."""
    return _UNSAFE.sub(lambda found: b"\\0%03o" % found[0][0], path).decode("ascii")


_UNSAFE = re.compile(rb"[^A-Za-z0-9/._-]", re.DOTALL)
_STATUS = re.compile(
    rb"([0-9a-f]{1,8}) (\d{1,10}) (\d{1,10}) (\d{1,10}) (\d{1,19}) (\d{1,20}) (\d{1,20}) (-?\d{1,19}) [-0-9]{1,16} "
    rb"[0-9:]{1,8}(?:\.(\d{1,9}))?(?: [-+]\d{4})?"
)
_LAST_NS = (1 << 64) - 1
_MAX_TARGET = 4096


def read_status(line: bytes, target: bytes = b"") -> Status:
    """A status as stat(1) has told it. Raises ValueError for anything else, and for numbers that no file has."""
    told = _STATUS.fullmatch(line)
    if told is None or len(target) > _MAX_TARGET:
        raise ValueError("no status")
    mode = int(told[1], 16)
    uid, gid, links, size, inode, device, seconds = (int(told[number]) for number in range(2, 9))
    if max(uid, gid) > MAX_ID or links >= 1 << 32 or size >= 1 << 63 or max(inode, device) >= 1 << 64:
        raise ValueError("a number that no file has")
    moment = seconds * 10**9 + int((told[9] or b"0").ljust(9, b"0"))
    return Status(mode, uid, gid, size, inode, device, min(max(moment, 0), _LAST_NS), target, links)


def read_place(said: bytes) -> tuple[str, bytes, bytes]:
    """Of what BEGIN_WRITE says behind its first line: the inode, the directory and the name. Raises ValueError."""
    inode, _, rest = said.partition(b"\n")
    directory, nul, name = rest.partition(b"\0")
    sane = directory.startswith(b"/") and len(directory) <= _MAX_PATH and 0 < len(name) <= 255
    if not (nul and sane and _INODE.fullmatch(inode)) or b"\0" in name or b"/" in name or name in (b".", b".."):
        raise ValueError("no place")
    return inode.decode("ascii"), directory, name


_INODE = re.compile(rb"\d{1,20} \d{1,20}")


def read_failure(exit_code: int | None, stderr: bytes) -> Failure:
    """Why a script has ended with anything but 0."""
    if exit_code is not None and 50 <= exit_code <= 50 + Step.PLACE:
        return Failure(read_errno(stderr), Step(exit_code - 50))
    cause = _CAUSES.get(exit_code, Cause.PROGRAMS)
    return Failure(cause, Step.AGENT)


_CAUSES = {8: Cause.CHANGED, 60: Cause.LINK, 61: Cause.UNSURE, 137: Cause.STALLED, None: Cause.STALLED}


def read_errno(stderr: bytes) -> int:
    """The reason that stands last in a program's words, as glibc and musl have it in the C locale."""
    words = stderr[-1024:].strip().rpartition(b"\n")[2].rpartition(b": ")[2].strip().lower()
    return _REASONS.get(words, errno.EIO)


_REASONS = {
    b"no such file or directory": errno.ENOENT,
    b"no such file": errno.ENOENT,
    b"permission denied": errno.EACCES,
    b"operation not permitted": errno.EPERM,
    b"not a directory": errno.ENOTDIR,
    b"is a directory": errno.EISDIR,
    b"file exists": errno.EEXIST,
    b"no space left on device": errno.ENOSPC,
    b"disk quota exceeded": errno.EDQUOT,
    b"quota exceeded": errno.EDQUOT,
    b"file too large": errno.EFBIG,
    b"read-only file system": errno.EROFS,
    b"too many levels of symbolic links": errno.ELOOP,
    b"symbolic link loop": errno.ELOOP,
    b"file name too long": errno.ENAMETOOLONG,
    b"filename too long": errno.ENAMETOOLONG,
    b"device or resource busy": errno.EBUSY,
    b"resource busy": errno.EBUSY,
    b"text file busy": errno.ETXTBSY,
    b"operation not supported": errno.EOPNOTSUPP,
    b"not supported": errno.EOPNOTSUPP,
    b"invalid argument": errno.EINVAL,
    b"no such device or address": errno.ENXIO,
}
