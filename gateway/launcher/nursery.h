/* The nursery: the process on the host that every launch is born of, so that the supervisor never forks its own image. */
#ifndef LAUNCHER_NURSERY_H
#define LAUNCHER_NURSERY_H

/* Serves requests, as protocol.h has them, until their sender is gone. */
_Noreturn void keep_nursery(void);

#endif
