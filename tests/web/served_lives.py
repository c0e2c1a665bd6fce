"""Live replies of every kind for the served application; each tells when its client leaves and when it is closed."""

import os
import threading
import time
from collections.abc import Callable

from gateway.web.live import Live

Tell = Callable[..., None]
NEVER = float("inf")


class Told(Live):
    """Tells of its end; has nothing to wait for."""

    name = ""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def sources(self) -> tuple[int, ...]:
        return ()

    def wake_at(self) -> float:
        return NEVER

    def gone(self) -> None:
        self.tell(event="gone", name=self.name, at=time.monotonic())

    def close(self) -> None:
        self.tell(event="closed", name=self.name, thread=threading.current_thread().name)


class Pieces(Told):
    """A number of pieces of one size, at once."""

    def __init__(self, tell: Tell, size: int, count: int) -> None:
        super().__init__(tell)
        self._piece = bytes(range(256)) * (size // 256) + bytes(size % 256)
        self._left = count

    def stop(self) -> bool:
        return True

    def produce(self) -> bytes | None:
        self._left -= 1
        return self._piece if self._left >= 0 else None


class Spoken(Told):
    """What is said to it, when it is said; "end" is its end. Beats every 50 ms if told to."""

    def __init__(self, tell: Tell, name: str) -> None:
        super().__init__(tell)
        self.name = name
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._beat = name.startswith("beat")
        self._next = time.monotonic() + 0.05

    def say(self, data: bytes) -> None:
        os.write(self._write, data)

    def sources(self) -> tuple[int, ...]:
        return (self._read,)

    def wake_at(self) -> float:
        return self._next if self._beat else NEVER

    def produce(self) -> bytes | None:
        try:
            data = os.read(self._read, 1 << 20)
        except BlockingIOError:
            if self._beat and time.monotonic() >= self._next:
                self._next += 0.05
                return b"beat"
            return b""
        return None if data == b"end" else data

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)
        super().close()


class Endless(Told):
    """1 MiB at any time; tells, at its end, how much it was asked for."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(tell)
        self._piece = bytes(1 << 20)
        self._produced = 0

    def produce(self) -> bytes:
        self._produced += len(self._piece)
        return self._piece

    def close(self) -> None:
        self.tell(event="closed", produced=self._produced)


class Fed(Endless):
    """Beside that, takes ten bytes of its client's, and ten more when its pipe says so."""

    upgrades = True

    def __init__(self, tell: Tell) -> None:
        super().__init__(tell)
        self.taken = 0
        self._room = 10
        self._read, self.more = os.pipe()

    def sources(self) -> tuple[int, ...]:
        return (self._read,)

    def wants_input(self) -> bool:
        return self._room > 0

    def receive(self, data: bytes) -> None:
        if not data:
            self._room += 10 * len(os.read(self._read, 10))
        self._room -= len(data)
        self.taken += len(data)
        self.tell(event=str(self.taken))

    def close(self) -> None:
        os.close(self._read)
        os.close(self.more)
        super().close()


class Faulty(Told):
    """Raises in the method that `where` names, after a first piece."""

    def __init__(self, tell: Tell, where: str) -> None:
        super().__init__(tell)
        self._where = where
        self._begun = False

    def produce(self) -> bytes:
        if self._begun:
            self._fail("produce")
            return b""
        self._begun = True
        return b"first"

    def sources(self) -> tuple[int, ...]:
        self._fail("sources")
        return ()

    def wake_at(self) -> float:
        self._fail("wake_at")
        return NEVER

    def close(self) -> None:
        super().close()
        self._fail("close")

    def _fail(self, where: str) -> None:
        if where == self._where or (where == "produce" and self._where == "close"):
            raise RuntimeError(f"fault in {where}")


class Echo(Told):
    """Another protocol: says 101, then what it is sent, up to 1 MiB behind; ends after a "bye"."""

    upgrades = True
    WINDOW = 1 << 20

    def __init__(self, tell: Tell) -> None:
        super().__init__(tell)
        self._out = bytearray(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
        self._ended = False

    def receive(self, data: bytes) -> None:
        self._ended = data.endswith(b"bye")
        self._out += data

    def stop(self) -> bool:
        self._out += b"goodbye"
        self._ended = True
        return True

    def wants_input(self) -> bool:
        return len(self._out) < self.WINDOW

    def produce(self) -> bytes | None:
        if not self._out and self._ended:
            return None
        data = bytes(self._out)
        self._out.clear()
        return data
