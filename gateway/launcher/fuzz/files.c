/* Fuzzes parse_files_request: whatever it accepts has a path that ends with the input, and no flag that is unknown;
 * and of two paths neither is empty. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct files_request request;
    char *bytes = malloc(size); /* its very size, so that a byte read past it is seen */
    memcpy(bytes, data, size);
    if (parse_files_request(bytes, size, &request)) {
        if (request.path != bytes + FILES_REQUEST || strlen(request.path) + 1 != size - FILES_REQUEST)
            abort();
        if (request.flags & ~(uint32_t)FILES_FLAGS)
            abort();
        const char *second = second_path(&request);
        if (second && (second <= request.path || !*second || strlen(second) != request.length))
            abort();
    }
    free(bytes);
    return 0;
}
