/* Owns the parsing of a spec: bounded, in place, all or nothing. */
#include "spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t little_endian(const char *bytes)
{
    const unsigned char *b = (const unsigned char *)bytes;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Takes the next NUL-terminated string off [*at, end), or NULL where none is left. */
static char *take_string(char **at, const char *end)
{
    char *string = *at;
    char *nul = memchr(string, 0, (size_t)(end - string));
    if (nul)
        *at = nul + 1;
    return nul ? string : NULL;
}

bool parse_spec(char *bytes, size_t size, struct spec *spec)
{
    errno = EINVAL;
    if (size < SPEC_HEADER || size > SPEC_MAX || memcmp(bytes, "pvegspec", 8) != 0 || little_endian(bytes + 8) != 1)
        return false;
    uint32_t flags = little_endian(bytes + 12), argc = little_endian(bytes + 16), envc = little_endian(bytes + 20);
    size_t length = size - SPEC_HEADER;
    /* Every string is at least its NUL: so the counts are held by bytes that exist before anything is allocated. */
    if ((flags & ~(uint32_t)(SPEC_TTY | SPEC_FILES | SPEC_FILES_WRITE)) || argc < 1 || little_endian(bytes + 24) != length ||
        (uint64_t)argc + envc + 2 > length)
        return false;

    char *at = bytes + SPEC_HEADER;
    const char *end = bytes + size;
    char **vectors = calloc((size_t)argc + 1 + envc + SPEC_ENV_ROOM + 1, sizeof *vectors);
    if (!vectors)
        return false;
    *spec = (struct spec){.flags = flags, .argv = vectors, .env = vectors + argc + 1, .envc = envc};
    errno = EINVAL;
    bool whole = (spec->cwd = take_string(&at, end)) && (spec->user = take_string(&at, end));
    for (uint32_t i = 0; whole && i < argc; i++)
        whole = (spec->argv[i] = take_string(&at, end));
    for (uint32_t i = 0; whole && i < envc; i++) {
        char *variable = spec->env[i] = take_string(&at, end);
        whole = variable && strchr(variable, '=') && *variable != '=';
    }
    if (whole && at == end)
        return true;
    free(vectors);
    return false;
}

const char *spec_variable(const struct spec *spec, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < spec->envc; i++)
        if (!strncmp(spec->env[i], name, length) && spec->env[i][length] == '=')
            return spec->env[i] + length + 1;
    return NULL;
}

bool default_variable(struct spec *spec, const char *name, const char *value)
{
    if (spec_variable(spec, name))
        return true;
    size_t name_length = strlen(name), value_length = strlen(value);
    char *variable = malloc(name_length + 1 + value_length + 1);
    if (!variable)
        return false;
    memcpy(variable, name, name_length + 1);
    variable[name_length] = '=';
    memcpy(variable + name_length + 1, value, value_length + 1);
    spec->env[spec->envc++] = variable;
    return true;
}
