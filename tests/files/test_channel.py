"""What the web believes of a guest whose root answers in the launcher's place: nothing out of bounds."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import threading
from collections.abc import Iterator

import pytest

from gateway.errors import ClientGone, GatewayError, GuestAgentUnavailable
from gateway.errors_files import GuestFilesFailed, GuestFilesStalled
from gateway.files.accounts import Accounts
from gateway.files.channel import Channel
from gateway.files.session import Session
from gateway.files.wire import WireError, entry_names


class Guest:
    """The other ends of a channel's pipes."""

    def __init__(self) -> None:
        reading, self.answers = os.pipe()
        self.asked, writing = os.pipe()
        for fd in (reading, writing):
            os.set_blocking(fd, False)
        self.channel = Channel(reading, writing, None, stall_s=1)

    def says(self, data: bytes) -> Session:
        os.write(self.answers, data)
        return Session(self.channel)

    def refuse(self) -> None:
        """Nobody reads its answers any more: who writes them gets EPIPE."""
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), self.channel.reading)

    def hang_up(self) -> None:
        os.close(self.answers)
        self.answers = -1


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.channel.close()
    for fd in (made.answers, made.asked):
        if fd >= 0:
            os.close(fd)


def frame(kind: str, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<II", ord(kind), len(body) if length is None else length) + body


AGENT_GONE = struct.pack("<II", 1, 6)
"""As an error: of an agent that is away (wire.Step.AGENT, machine.Cause.AWAY)."""
STATUS = struct.pack("<IIIIQQQQ", 0o100644, 0, 0, 0, 5, 1, 1, 10**18)

LIES = {
    "unknown kind": frame("?"),
    "kind over a byte": struct.pack("<II", 0x1041, 0),
    "a long answer": frame("A", length=1 << 30),
    "a short answer": frame("A", b"x"),
    "too much content": frame("D", length=(256 << 10) + 1),
    "content of nothing": frame("D"),
    "an end with a body": frame("Z", b"x"),
    "an unknown step": frame("E", struct.pack("<II", 2, 99)),
    "a size of no file": frame("A", STATUS[:16] + struct.pack("<Q", 1 << 63) + STATUS[24:]),
    "content instead of an answer": frame("D", b"x"),
    "an end instead of an answer": frame("Z"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_lies_are_failures(guest: Guest, lie: bytes) -> None:
    """Whatever is not the launcher's wire is guest_files_failed, and nothing is allocated for what is only promised."""
    with pytest.raises(GuestFilesFailed):
        guest.says(lie).look(b"/etc/hosts")


def test_who_says_that_it_is_at_work_is_waited_for(guest: Guest) -> None:
    """Removing a directory goes on for as long as the guest says so now and then; silence is what counts."""
    guest.says(frame("P") + frame("Z")).remove(b"/x", recursive=True)
    with pytest.raises(GuestFilesStalled):
        guest.says(frame("P")).remove(b"/x", recursive=True)


def test_who_says_nothing_else_all_the_time_is_no_launcher(guest: Guest) -> None:
    """A launcher says so every five seconds: what comes faster is made up, and so it is where nothing is removed."""
    with pytest.raises(GuestFilesFailed):
        guest.says(frame("P") * 3).remove(b"/x", recursive=True)
    with pytest.raises(GuestFilesFailed):
        guest.says(frame("P")).look(b"/x")


def test_an_unknown_errno_is_told(guest: Guest) -> None:
    """A number that no kernel has is an error like others."""
    with pytest.raises(GatewayError) as told:
        guest.says(frame("E", struct.pack("<II", 123456, 0))).look(b"/x")
    assert told.value.code == "file_refused"


def test_an_agent_that_is_away_is_not_a_guest_without_users(guest: Guest) -> None:
    """Who a machine's users are is not known while its agent does not answer; a cause that does not exist is a lie."""
    with pytest.raises(GuestAgentUnavailable):
        guest.says(frame("E", AGENT_GONE)).accounts()
    with pytest.raises(GuestFilesFailed):
        guest.says(frame("E", struct.pack("<II", 99, 6))).look(b"/x")


def test_silence_and_its_end(guest: Guest) -> None:
    """Who says nothing is guest_files_stalled in time; who hangs up in the middle of an answer has failed."""
    with pytest.raises(GuestFilesStalled):
        Session(guest.channel).look(b"/x")
    session = guest.says(frame("A", STATUS)[:20])
    guest.hang_up()
    with pytest.raises(GuestFilesFailed):
        session.look(b"/x")


def test_who_takes_nothing(guest: Guest) -> None:
    """A guest that does not read what is written stalls it in time."""
    session = Session(guest.channel)
    with pytest.raises(GuestFilesStalled):
        for _ in range(100):
            session.write(bytes(64 << 10))


def test_an_answer_in_pieces(guest: Guest) -> None:
    """Answers are put together from any pieces."""
    for byte in frame("A", STATUS)[:-1]:
        os.write(guest.answers, bytes([byte]))
        assert guest.channel.take() is None
    assert guest.says(frame("A", STATUS)[-1:]).channel.next() is not None


ENTRIES = {
    "no length": struct.pack("<QqHB", 1, 1, 0, 0),
    "shorter than itself": struct.pack("<QqHB", 1, 1, 5, 0) + b"a\0",
    "no nul": struct.pack("<QqHB", 1, 1, 24, 0) + b"abcde",
    "an empty name": struct.pack("<QqHB", 1, 1, 24, 0) + b"\0bcde",
    "a path": struct.pack("<QqHB", 1, 1, 24, 0) + b"../x\0",
    "a name of no file system": struct.pack("<QqHB", 1, 1, 65528, 0) + b"a" * 65508 + b"\0",
    "half an entry": struct.pack("<QqHB", 1, 1, 24, 0) + b"a\0",
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_entries_that_no_directory_has(entry: bytes) -> None:
    """A directory's bytes are the guest's word: names with a slash, lengths that do not fit are refused."""
    with pytest.raises(WireError):
        list(entry_names([entry]))


def test_a_directory_that_only_names_itself() -> None:
    """Endless entries of `.`, none of which counts as a name, end: nobody is kept reading them."""
    endless = itertools.repeat(struct.pack("<QqHB", 1, 1, 24, 0) + b".\0\0\0\0")
    with pytest.raises(WireError):
        list(entry_names(itertools.islice(endless, 10_000)))


def test_accounts_without_end(guest: Guest) -> None:
    """A guest that answers more of /etc/passwd than was asked for is cut off: what it says is not kept in memory."""
    sent = 0

    def flood() -> None:
        nonlocal sent
        with contextlib.suppress(BrokenPipeError):
            os.write(guest.answers, frame("A", STATUS))
            while sent < 16 << 20:
                sent += os.write(guest.answers, frame("D", bytes(16 << 10)))
            os.write(guest.answers, frame("Z"))

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        with pytest.raises(GuestFilesFailed):
            Session(guest.channel)._small(b"/etc/passwd")
        assert sent < 4 << 20
    finally:
        guest.refuse()
        flooding.join()


class Left:
    """A client that has left."""

    fd, gone = False, True

    def wait(self, fd: int | None, timeout: float | None) -> Left:
        return self


def test_who_answers_without_a_pause(guest: Guest) -> None:
    """A guest that always has another piece ready keeps nobody here whose client has left."""
    guest.channel._watch = Left()
    os.write(guest.answers, frame("A", STATUS) + frame("D", b"x") * 2000)
    session = Session(guest.channel)
    session.look(b"/x")
    with pytest.raises(ClientGone):
        for _ in range(2000):
            next(session.content())


def test_entries_come_in_any_pieces() -> None:
    """However the pieces are cut, the names are the same; `.` and `..` are none."""
    whole = b"".join(
        struct.pack("<QqHB", 1, 1, 24, 0) + name.ljust(5, b"\0") for name in (b".", b"..", b"a", b"\xff\n", b"bcde"[:4])
    )
    for size in (1, 7, 24, 100):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert list(entry_names(pieces)) == [b"a", b"\xff\n", b"bcde"]


def test_accounts_of_a_hostile_guest() -> None:
    """Names that could break a header are nobody's; the first entry of a name or number counts."""
    passwd = b"root:x:0:0:::\nev\ril:x:5:5:::\nx\xff:x:6:6:::\nroot:x:7:7:::\nadmin:x:0:0:::\n"
    passwd += b"big:x:99999999999:1:::\nshort:x:1\n"
    accounts = Accounts.parse(passwd, b"root:x:0:\nno\n")
    assert accounts.users == {"root": 0, "admin": 0}
    assert accounts.user_names == {0: "root"} and accounts.group_names == {0: "root"}
