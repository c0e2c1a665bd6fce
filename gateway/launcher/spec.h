/* The spec: what to run, as the supervisor wrote it into a memfd. This comment is the format's only source.
 *
 *   offset  size  field
 *        0     8  magic "pvegspec"
 *        8     4  version, 1
 *       12     4  flags, a sum of SPEC_*; an unknown one is refused
 *       16     4  argc, at least 1
 *       20     4  envc
 *       24     4  length of the strings, to the end of the file
 *       28     -  strings, each ended by NUL: cwd, user, argc arguments, envc variables as NAME=value
 *
 * Numbers are little-endian and unsigned. The strings fill their length exactly; the whole is at most SPEC_MAX bytes.
 *   cwd    "" means the user's home, or / where that cannot be entered
 *   user   "" means root; a name; a uid; uid:gid (users.h)
 *   argv   argv[0] without a slash is searched along the PATH that the variables give
 */
#ifndef LAUNCHER_SPEC_H
#define LAUNCHER_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SPEC_TTY = 1, SPEC_FILES = 2, SPEC_FILES_WRITE = 4 }; /* files.h */
enum { SPEC_MAX = 4 << 20, SPEC_HEADER = 28 };
enum { SPEC_ENV_ROOM = 4 }; /* free places behind the variables, for those that the user's account gives */

struct spec {
    uint32_t flags;
    char *cwd;
    char *user;
    char **argv; /* NULL-terminated; one allocation holds argv and env, free() it here */
    char **env;  /* NULL-terminated, with SPEC_ENV_ROOM places to spare */
    size_t envc;
};

/* Parses `size` bytes, into which the result points. False with errno EINVAL, or ENOMEM, for anything but a spec. */
bool parse_spec(char *bytes, size_t size, struct spec *spec);

/* Adds NAME=value unless the spec sets NAME; at most SPEC_ENV_ROOM times. False with errno ENOMEM. */
bool default_variable(struct spec *spec, const char *name, const char *value);

/* The value of a variable of the spec, NULL if it has none. The first one counts, as in getenv(3). */
const char *spec_variable(const struct spec *spec, const char *name);

#endif
