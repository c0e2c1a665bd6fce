"""Lane: a bounded number of threads, started as they are needed, that work off one queue."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.web.threads import begin_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lane(Generic[Item, Result]):
    """At most `size` threads call `done(item, work(item))`; at most `backlog` more items wait.

    An item's place is free before `done` is called, so that what `done` sets off finds it free.
    Neither function may raise. The threads are daemons: one that hangs in a handler does not keep the
    process from ending.
    """

    def __init__(
        self,
        name: str,
        *,
        size: int,
        backlog: int,
        work: Callable[[Item], Result],
        done: Callable[[Item, Result], None],
    ) -> None:
        self._name = name
        self._size = size
        self._backlog = backlog
        self._work = work
        self._done = done
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._load = 0

    def submit(self, item: Item) -> bool:
        """Have `item` worked on; False if the lane and its queue are full, or there is no thread and none can be had.

        While the node has no room for another thread those that there are do all of it; each item tries again.
        """
        with self._lock:
            if self._load >= self._size + self._backlog:
                return False
            self._load += 1
            start = self._load > self._threads < self._size
            if start:
                self._threads += 1
        if start and not self._start():
            with self._lock:
                if not self._threads:
                    self._load -= 1
                    return False
        self._queue.put(item)
        return True

    def _start(self) -> bool:
        """Whether there is one thread more."""
        if begin_thread(f"{self._name}-{self._threads}", self._run) is None:
            with self._lock:
                self._threads -= 1
            return False
        return True

    @property
    def waiting(self) -> bool:
        """Whether an item waits for a thread."""
        return self._load > self._size

    @property
    def roomy(self) -> bool:
        """Whether at least a quarter of the threads has nothing to do."""
        return self._load * 4 <= self._size * 3

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            result = self._work(item)
            with self._lock:
                self._load -= 1
            self._done(item, result)
            del item, result  # not until the next item comes
