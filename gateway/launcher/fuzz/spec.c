/* Fuzzes parse_spec: whatever it accepts must be whole, inside its input and free of leaks. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct spec spec;
    char *bytes = malloc(size); /* its very size, so that a byte read past it is seen */
    const char *end = bytes + size;
    memcpy(bytes, data, size);
    if (parse_spec(bytes, size, &spec)) {
        char *at = bytes + SPEC_HEADER;
        if (spec.cwd != at || spec.user != at + strlen(spec.cwd) + 1 || !spec.argv[0])
            abort();
        at = spec.user + strlen(spec.user) + 1;
        for (char **argument = spec.argv; *argument; at += strlen(*argument) + 1, argument++)
            if (*argument != at)
                abort();
        for (size_t i = 0; i < spec.envc; at += strlen(spec.env[i]) + 1, i++)
            if (spec.env[i] != at)
                abort();
        if (at != end || spec.env[spec.envc])
            abort();
        size_t given = spec.envc;
        default_variable(&spec, "HOME", "/");
        default_variable(&spec, "USER", "a");
        default_variable(&spec, "LOGNAME", "a");
        default_variable(&spec, "SHELL", "/bin/sh");
        if (!spec_variable(&spec, "SHELL") || spec.env[spec.envc])
            abort();
        while (spec.envc > given)
            free(spec.env[--spec.envc]);
        free(spec.argv);
    }
    free(bytes);
    return 0;
}
