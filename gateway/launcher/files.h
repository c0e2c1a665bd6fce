/* File mode: a guest's files, looked at, read and replaced inside the guest, for whoever speaks this over two pipes.
 *
 * A spec with SPEC_FILES makes the launcher this instead of a command; SPEC_FILES_WRITE lets it change anything. It reads
 * requests on 0 and answers on 1, as the guest's root and in the guest's namespaces: every path is the guest's own, and
 * links are followed as the guest would. gateway/files/wire.py is the other end. This comment is the wire's only source.
 *
 * A frame is u32 kind, u32 length, then so many bytes, at most FILES_FRAME_MAX. Numbers are little-endian. Every request
 * but 'D' has the same body: u32 flags, u32 mode, u32 uid, u32 gid, u64 offset, u64 length, and a path ended by NUL.
 *
 *   request                                        answer
 *   'S' path [FILES_NOFOLLOW]                      'A'; with the target of a link behind it
 *   'R' path, offset, length                       'A', of a regular file 'D'..., then 'Z': fewer bytes where it is shorter
 *   'L' path                                       'A', of a directory 'D'... as getdents64(2) has them, then 'Z'
 *   'W' path                                       'A': what stands there, of mode 0 if nothing does. Where that is
 *                                                  nothing or a regular file, a nameless or temporary file is open now
 *   'D' bytes                                      none: they go into that file
 *   'C' mode, uid, gid [FILES_EXCLUSIVE]           'A': the file is whole, on disk, and has its place and name; with
 *                                                  the flag only if nothing stood there. Nothing else puts it there:
 *                                                  at EOF it is gone
 *   'U' path [FILES_RECURSIVE]                     'Z': it is gone. The last part is no link's target; a directory goes
 *                                                  with the flag alone, and never what is mounted below it. Before it
 *                                                  'P', without a body, each FILES_PROGRESS_SECONDS that it takes
 *   'T' path                                       'A': the directory is held as the tree, for what follows
 *   'G'                                            all of the tree: of each thing in it 'N' with its path in the tree,
 *                                                  then 'E', or 'A', with a link's target behind it, and of a regular
 *                                                  file as many bytes in 'D'... as it is long; 'Z' behind the last.
 *                                                  Nothing that is mounted in it
 *   'M' path, mode, uid, gid                       'A': the directory is there, as it was (size 0), or new and
 *                                                  with these (size 1)
 *   'Y' path, uid, gid, offset, length             'Z': a link. Its last `length` bytes are the target; offset: mtime
 *   'H' path, length                               'Z': another name for the regular file that the last `length` name
 *   'I' path, offset                               'Z': the directory's mtime
 *   'F'                                            'Z': the tree's file system is on disk
 *
 * These name things in the tree, and so do 'S', 'W' and 'C' with FILES_BELOW: no link is followed on the way, nor in the
 * last part. What is no directory is replaced at once, or with FILES_EXCLUSIVE 'E' EEXIST. An mtime is in ns; for 'C' it
 * is `offset`, with FILES_TIMED. FILES_LATER leaves the disk to 'F'.
 *
 * 'A' is u32 mode, u32 uid, u32 gid, u32 links, u64 size, u64 inode, u64 device, u64 mtime in ns (st_mode, ...).
 * 'E' instead of any answer, or behind an 'A' instead of 'Z', is u32 errno, u32 enum files_step. It comes unasked for a 'D'
 * that could not be written: then, and after anything that is no request, the launcher ends. Files that are neither
 * regular nor directories are never opened; none is opened so that it could block.
 */
#ifndef LAUNCHER_FILES_H
#define LAUNCHER_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FILES_PROGRESS_SECONDS = 5 };
enum { FILES_HEADER = 8, FILES_REQUEST = 32, FILES_ANSWER = 48, FILES_FRAME_MAX = 256 << 10 };
enum {
    FILES_NOFOLLOW = 1,
    FILES_EXCLUSIVE = 2,
    FILES_RECURSIVE = 4,
    FILES_BELOW = 8,
    FILES_LATER = 16,
    FILES_TIMED = 32,
    FILES_FLAGS = 63,
};

/* What could not be done, where the errno alone would not tell. */
enum files_step {
    FILES_PATH = 0,   /* the path could not be walked, or what it names not be opened, read or removed */
    FILES_CREATE = 1, /* no file could be made in its directory */
    FILES_DATA = 2,   /* its bytes could not be written: ENOSPC, EDQUOT, EFBIG, EIO */
    FILES_OWNER = 3,  /* EINVAL: the guest does not map that uid or gid */
    FILES_MODE = 4,
    FILES_PLACE = 5, /* it could not be given its name: EEXIST with FILES_EXCLUSIVE */
    FILES_AGENT = 6, /* never a launcher's: the supervisor's, which speaks this for machines by their agents */
};

struct files_request {
    uint32_t flags;
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    uint64_t offset;
    uint64_t length;
    const char *path;
};

/* Parses a request's body, into which the result points. False for anything but one. */
bool parse_files_request(const char *bytes, size_t size, struct files_request *request);

/* Where the second of a request's two paths begins: its last `length` bytes. NULL with EINVAL where either is empty. */
const char *second_path(const struct files_request *request);

/* Serves requests until the end of 0. */
_Noreturn void serve_files(bool may_write);

#endif
