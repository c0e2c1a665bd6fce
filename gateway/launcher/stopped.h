/* Files of a container that does not run: file mode (files.h) in its mounted root file system. */
#ifndef LAUNCHER_STOPPED_H
#define LAUNCHER_STOPPED_H

/* Serves files in the tree that is mounted at `words[0]` in the mounts that FD_MOUNTS is, with the uid map `words[1]`, the
 * gid map `words[2]`, and for changes with "write" as `words[3]`. protocol.h says how it begins.
 *
 * By then it has nothing of the node: its root is a copy of the mounts of that tree, without devices, set-user-id and
 * programs, and without writing unless that is asked for; its own mount namespace has nothing else in it; its user
 * namespace has the container's users; of capabilities it has, in there, what files take. So all that a link, a name or a
 * mount point in the tree can lead to is the tree. Nothing of the tree is looked up before. */
_Noreturn void serve_stopped(char *const *words);

#endif
