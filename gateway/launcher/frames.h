/* The frames of file mode (files.h), and the one buffer in which they are made. */
#ifndef LAUNCHER_FRAMES_H
#define LAUNCHER_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "files.h"

/* What is behind its header is sent by send_frame(). */
extern char frame[FILES_HEADER + FILES_FRAME_MAX];

/* Little-endian. */
uint64_t get_number(const char *bytes, size_t size);

/* All of it, or none where 0 has ended. */
bool receive(char *bytes, size_t size);

/* Sends the first bytes of `frame` behind its header. Whoever does not take them any more has no use for us either. */
void send_frame(char kind, size_t length);

/* 'E' with errno. */
void send_error(enum files_step step);

/* 'A', and `more` bytes that stand behind it in `frame`. */
void send_answer(const struct stat *status, size_t more);

/* Ends the launcher, and an upload that has not been finished with it. */
_Noreturn void end_files(void);

#endif
