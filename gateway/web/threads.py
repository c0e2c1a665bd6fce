"""begin_thread: a thread that ends with the process, where the node has room for one."""

import threading
from collections.abc import Callable


def begin_thread(name: str, run: Callable[[], None]) -> threading.Thread | None:
    """A daemon thread that has begun; None where none can be had now (pids.max, say): who needs it tries again."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread
