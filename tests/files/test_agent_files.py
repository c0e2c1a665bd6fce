"""What the supervisor believes of a guest agent that lies, forgets or falls silent while it serves files: nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import struct
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest

from gateway.errors import DriverUnsupported, GatewayError, GuestAgentUnavailable
from gateway.errors_files import DirectoryTooLarge, FileNotFound, GuestFilesFailed, GuestFilesStalled
from gateway.exec.agent import (
    Agent,
    AgentAway,
    AgentOutput,
    AgentRefused,
    AgentResult,
    AgentSilent,
    CommandForgotten,
)
from gateway.files.accounts import MAX_FILE
from gateway.files.failures import to_error
from gateway.files.machine import MAX_NAMES, Cause
from gateway.files.wire import (
    EXCLUSIVE,
    HEADER,
    NOFOLLOW,
    RECURSIVE,
    WHOLE,
    End,
    Failure,
    Frame,
    Status,
    Step,
    WireError,
    check_header,
    data_header,
    entry_names,
    parse,
    request,
)
from gateway.supervisor.agent import upload as agent_upload
from gateway.supervisor.agent.commands import AgentCommands, CommandFailed
from gateway.supervisor.agent.files import AgentFiles
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.agent.scripts import BEGIN_WRITE, DROP, PIECE_OUT, read_status
from gateway.supervisor.guests.machines import Machine

T = TypeVar("T")
Says = Callable[[list[str], bytes], AgentResult | Exception | None]

FILE = b"81a4 0 0 1 %d 7 8 1795000000 2026-11-22 01:04:16.050840928 +0000\n"
DIRECTORY = FILE.replace(b"81a4", b"41ed") % 4096
PLACE = b"65024 9\n/srv/.pveg-x\0file"


class LyingAgent:
    """Ends each command at once with what it is told to say."""

    def __init__(self, says: Says) -> None:
        self.started: list[list[str]] = []
        self._says = says
        self._results: dict[int, AgentResult | Exception | None] = {}

    def check(self, vmid: int) -> None:
        """Is well."""

    def start(self, vmid: int, argv: list[str], stdin: bytes) -> int:
        self.started.append(argv)
        said = self._says(argv, stdin)
        if isinstance(said, AgentRefused | AgentAway | AgentSilent):
            raise said
        self._results[len(self.started)] = said
        return len(self.started)

    def poll(self, vmid: int, pid: int) -> AgentResult | None:
        said = self._results[pid]
        if isinstance(said, Exception):
            raise said
        return said


def result(out: bytes = b"", code: int | None = 0, err: bytes = b"", *, truncated: bool = False) -> AgentResult:
    return AgentResult(code, None, AgentOutput(out, truncated), AgentOutput(err, False))


def serve(says: Says, asked: bytes, *, write: bool = True, wait_s: float = 5) -> list[Frame]:
    """Every answer to some requests, read as the web reads them."""

    async def go() -> list[Frame]:
        io = asyncio.get_running_loop()
        machine = cast(Machine, type("Run", (), {"vmid": 341}))
        questions = Questions(io, lambda: cast(Agent, LyingAgent(says)))
        files = AgentFiles(AgentCommands(io, questions, machine, wait_s), write=write)
        files.inbox += asked
        try:
            while await files.advance():
                pass
        except WireError:
            if not files.outbox:  # else it has said why
                raise
        return read_frames(bytes(files.outbox))

    return run(go())


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def read_frames(said: bytes) -> list[Frame]:
    """Raises WireError for what no launcher says."""
    frames = list[Frame]()
    while said:
        kind, length = check_header(said[: HEADER.size])
        assert len(said) >= HEADER.size + length
        frames.append(parse(kind, said[HEADER.size : HEADER.size + length]))
        said = said[HEADER.size + length :]
    return frames


def error(frames: list[Frame]) -> GatewayError:
    """What the web makes of the last answer."""
    assert isinstance(frames[-1], Failure), frames
    return to_error(frames[-1])


def always(said: AgentResult | Exception | None) -> Says:
    return lambda argv, stdin: said


LOOK = request(b"S", b"/srv/file")
READ = request(b"R", b"/srv/file", length=WHOLE)
LIST = request(b"L", b"/srv")
WRITE = request(b"W", b"/srv/file")
COMMIT = request(b"C", b"/", mode=0o644)
CHANGES = (WRITE, COMMIT, request(b"U", b"/srv/file"))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (AgentAway("away"), GuestAgentUnavailable),
        (AgentSilent("silent"), GuestAgentUnavailable),
        (CommandForgotten("forgotten"), GuestAgentUnavailable),
        (AgentRefused("refused", "EPERM"), GuestAgentUnavailable),
        (AgentRefused("no timeout(1)", "ENOENT"), DriverUnsupported),
        (result(code=127), DriverUnsupported),
        (result(code=1), DriverUnsupported),
        (result(code=137), GuestFilesStalled),
        (result(code=None), GuestFilesStalled),
        (result(code=8), GuestFilesFailed),
        (result(code=61), GuestFilesFailed),
        (result(code=50, err=b"stat: x: No such file or directory\n"), FileNotFound),
        (result(FILE % 1, truncated=True), GuestFilesFailed),
        (result(b""), GuestFilesFailed),
    ],
)
def test_every_end_has_a_name(said: AgentResult | Exception, kind: type[GatewayError]) -> None:
    """Whatever becomes of a command is an error of its own kind, never a success and never a crash."""
    for asked in (LOOK, READ, LIST, WRITE, CHANGES[2]):
        if said == result(b"") and asked is CHANGES[2]:
            continue  # unlink(1) says nothing
        assert type(error(serve(always(said), asked))) is kind


def test_an_agent_that_never_says() -> None:
    """A command that does not end is waited for so long and no longer."""
    assert type(error(serve(always(None), LOOK, wait_s=0.1))) is GuestFilesStalled


@pytest.mark.parametrize(
    "line",
    [
        FILE.replace(b"81a4", b"181a481a4"),
        FILE.replace(b" 0 0 1", b" 4294967295 0 1"),
        FILE.replace(b" 0 0 1", b" -1 0 1"),
        FILE.replace(b"%d", b"9223372036854775808"),
        FILE.replace(b" 7 8", b" 18446744073709551616 8"),
        FILE.replace(b"1795000000", b"99999999999999999999"),
        FILE.replace(b"81a4 ", b"81a4  "),
        b"x" * (1 << 20) + b"\n",
    ],
)
def test_numbers_that_no_file_has(line: bytes) -> None:
    """A status out of bounds is refused; what is in bounds and odd is kept in them."""
    said = line.replace(b"%d", b"5")
    assert type(error(serve(always(result(said)), LOOK))) is GuestFilesFailed
    odd = FILE % 5
    assert read_status(odd.replace(b"1795000000", b"-1").rstrip()).mtime == 0
    assert read_status(odd.replace(b"1795000000", b"9" * 19).rstrip()).mtime == (1 << 64) - 1


def test_content_that_does_not_fit() -> None:
    """More than was asked for, less than there is, a file that becomes another, and one without an end are refused."""
    more = FILE % 5 + bytes(6) + b"\n" + FILE % 5
    assert type(error(serve(always(result(more)), request(b"R", b"/x", length=5)))) is GuestFilesFailed
    other = FILE % 5 + bytes(5) + b"\n" + (FILE % 5).replace(b" 7 8", b" 9 8")
    assert type(error(serve(always(result(other)), READ))) is GuestFilesFailed
    endless = FILE % 0 + bytes(PIECE_OUT) + b"\n" + FILE % 0
    assert type(error(serve(always(result(endless)), READ))) is DriverUnsupported
    short = FILE % 9 + bytes(5) + b"\n" + FILE % 9
    assert type(error(serve(always(result(short)), READ))) is GuestFilesFailed
    part = FILE % 9 + bytes(3) + b"\n" + FILE % 9
    status, content, end = serve(always(result(part)), request(b"R", b"/x", offset=6, length=7))
    assert (content, isinstance(status, Status), isinstance(end, End)) == (bytes(3), True, True)


def test_a_file_that_changes_between_two_pieces() -> None:
    """The second piece of another file, or of one that was written to, ends it; one that grew goes on."""
    size = PIECE_OUT + 5

    def says(second: bytes) -> Says:
        def say(argv: list[str], stdin: bytes) -> AgentResult:
            offset, length = (int(word) for word in argv[-2:])
            line = second if offset else FILE % size
            return result(line + bytes(min(length, size - offset)) + b"\n" + line)

        return say

    for second in (FILE % (size + 1), FILE % size):
        frames = serve(says(second), READ)
        assert b"".join(frame for frame in frames if isinstance(frame, bytes)) == bytes(size)
        assert isinstance(frames[-1], End)
    for second in (
        (FILE % size).replace(b" 7 8", b" 9 8"),
        (FILE % size).replace(b"1795000000", b"1795000001"),
        FILE % (size - 1),
    ):
        frames = serve(says(second), READ)
        assert type(error(frames)) is GuestFilesFailed
        assert b"".join(frame for frame in frames if isinstance(frame, bytes)) == bytes(PIECE_OUT)


@pytest.mark.parametrize("names", [b"x\0", b"./\0", b"./a/b\0", b"./a", b"\0", b"./" + b"a" * 256 + b"\0"])
def test_names_that_no_file_has(names: bytes) -> None:
    """None is passed on."""
    assert type(error(serve(always(result(DIRECTORY + names)), LIST))) is GuestFilesFailed


def test_directories_without_end() -> None:
    """Too many names, or too long ones together, are refused before they are looked at."""
    for names in (b"./a\0" * (MAX_NAMES + 1), bytes(5 << 20), b"./" + b"a" * (5 << 20)):
        assert type(error(serve(always(result(DIRECTORY + names)), LIST))) is DirectoryTooLarge


def test_a_listing_is_told_in_few_commands() -> None:
    """The names come as the launcher tells them; what stands at each is asked for many at once; what has gone, has."""
    names = [b"%05d" % number for number in range(3000)]
    commands = list[str]()

    def say(argv: list[str], stdin: bytes) -> AgentResult:
        commands.append(argv[6])
        if stdin:
            lines = stdin.split()
            return result(b"".join((b"\n\0" if name == b"00007" else FILE % int(name) + b"\0") for name in lines))
        return result(DIRECTORY + b"".join(b"./%s\0" % name for name in names))

    looks = b"".join(request(b"S", b"/srv/" + name, flags=NOFOLLOW) for name in names)
    status, *frames = serve(say, LIST + looks)
    ends = [index for index, frame in enumerate(frames) if isinstance(frame, End)]
    content = [frame for frame in frames[: ends[0]] if isinstance(frame, bytes)]
    assert isinstance(status, Status) and list(entry_names(content)) == names
    told = frames[ends[0] + 1 :]
    assert [frame.size for frame in told if isinstance(frame, Status)] == [n for n in range(3000) if n != 7]
    assert told[7] == Failure(2, Step.PATH)
    assert len(commands) == 1 + 3000 // 500


def test_statuses_of_other_names() -> None:
    """As many as were asked for, or none is believed."""
    for extra in (b"", (FILE % 1 + b"\0") * 2, FILE % 1):

        def say(argv: list[str], stdin: bytes, extra: bytes = extra) -> AgentResult:
            return result(extra if stdin else DIRECTORY + b"./a\0")

        frames = serve(say, LIST + request(b"S", b"/srv/a", flags=NOFOLLOW))
        assert type(error(frames)) is GuestFilesFailed


@pytest.mark.parametrize(
    "place",
    [
        b"",
        b"65024 9\n/srv/.pveg-x\0",
        b"65024 9\nsrv\0file",
        b"65024 9\n/srv\0..",
        b"65024 9\n/srv\0a/b",
        b"65024 9\n/srv\0a\0b",
        b"65024 9; id\n/srv\0file",
        b"65024 9\n/" + b"a" * 9000 + b"\0file",
        b"65024 9\n/srv\0" + b"a" * 256,
    ],
)
def test_places_that_are_none(place: bytes) -> None:
    """What the machine says of the new file's place goes into the next command, so that it is looked at first."""
    assert type(error(serve(always(result(b"-\n" + place)), WRITE))) is GuestFilesFailed


def say_upload(argv: list[str], stdin: bytes) -> AgentResult:
    """As an honest machine does for a new file."""
    if stdin:
        return result(hashlib.sha256(stdin).hexdigest().encode() + b"  -\n")
    if argv[6] == BEGIN_WRITE:
        return result(b"-\n" + PLACE)
    return result(FILE % int(argv[10]))


def test_an_upload() -> None:
    """Content of any frames goes in pieces of 64 KiB; a digest or a size that is not ours ends it."""
    content = data_header(200_000) + bytes(200_000) + data_header(3) + b"abc"
    old, new = serve(say_upload, WRITE + content + COMMIT)
    assert isinstance(old, Status) and old.st_mode == 0
    assert isinstance(new, Status) and new.size == 200_003

    def other_digest(argv: list[str], stdin: bytes) -> AgentResult:
        return result(b"0" * 64) if stdin else say_upload(argv, stdin)

    def other_size(argv: list[str], stdin: bytes) -> AgentResult:
        return result(FILE % 7) if not stdin and argv[6] != BEGIN_WRITE else say_upload(argv, stdin)

    for lie in (other_digest, other_size):
        assert type(error(serve(lie, WRITE + content + COMMIT))) is GuestFilesFailed


def test_an_upload_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large is refused before it is begun where that is known, else when it is."""
    monkeypatch.setattr(agent_upload, "MAX_WRITE", 1 << 20)
    assert error(serve(say_upload, request(b"W", b"/x", length=(1 << 20) + 1))).evidence["unsupported"] == ["size"]
    piece = data_header(1 << 18) + bytes(1 << 18)
    frames = serve(say_upload, WRITE + piece * 5)
    assert error(frames).evidence["unsupported"] == ["size"]


def test_what_the_web_may_not_ask() -> None:
    """A session that only reads changes nothing, and nothing is run for what is no request; trees and removal of
    directories are refused by name."""
    told = list[list[str]]()

    def say(argv: list[str], stdin: bytes) -> AgentResult:
        told.append(argv)
        return result()

    for change in CHANGES:
        with pytest.raises(WireError):
            serve(say, change, write=False)
    for nonsense in (
        COMMIT,
        data_header(1) + b"x",
        request(b"S", b"-L"),
        request(b"X", b"/"),
        request(b"S", b"/a\0b"),
        request(b"R", b"x", length=1),
        HEADER.pack(ord("S"), 3) + b"abc",
        HEADER.pack(ord("D"), 1 << 30),
        HEADER.pack(7, 0),
        struct.pack("<II", ord("S"), 1 << 20),
    ):
        with pytest.raises(WireError):
            serve(say, nonsense)
    for word, kinds in (("tar", (b"T", b"G", b"M", b"Y", b"H", b"I", b"F")), ("recursive", (b"U",))):
        for kind in kinds:
            flags = RECURSIVE if kind == b"U" else 0
            assert error(serve(say, request(kind, b"/a", flags=flags))).evidence["unsupported"] == [word]
    assert not told


def test_any_lie() -> None:
    """Whatever bytes an agent answers, in whatever order: the web gets what a launcher says, and no more of it than was
    asked for."""
    asked = (
        LOOK,
        READ,
        LIST,
        request(b"R", b"/etc/passwd", length=MAX_FILE) + request(b"R", b"/etc/group", length=MAX_FILE),
        request(b"S", b"/srv/a", flags=NOFOLLOW),
        WRITE + data_header(70_000) + bytes(70_000) + COMMIT,
        WRITE + request(b"C", b"/", flags=EXCLUSIVE),
    )
    parts = (
        FILE % 5,
        FILE % 0,
        DIRECTORY,
        b"-\n",
        PLACE,
        b"\n",
        b"\0",
        b"./a\0",
        b"abc",
        b" ",
        b"\xff" * 40,
        b"8" * 70,
    )
    for seed in range(150):
        dice = random.Random(seed)

        def say(argv: list[str], stdin: bytes, dice: random.Random = dice) -> AgentResult | Exception:
            if dice.random() < 0.1:
                return dice.choice((AgentSilent("x"), AgentAway("x"), CommandForgotten("x")))
            out = b"".join(dice.choices(parts, k=dice.randrange(6)))
            code = dice.choice((0, 0, 0, 0, 1, 8, 50, 55, 60, None, 1 << 40, -5))
            return result(out, code, dice.randbytes(20))

        frames = serve(say, dice.choice(asked), wait_s=0.2)
        for frame in frames:
            assert not isinstance(frame, Failure) or isinstance(to_error(frame), GatewayError)
        assert sum(len(frame) for frame in frames if isinstance(frame, bytes)) < 1 << 20


def test_what_is_handed_over_goes_on() -> None:
    """Before each command the whole session can be taken by another one, which answers the same."""
    content = b"".join(data_header(50_000) + bytes(50_000) for _ in range(5))
    asked = WRITE + content + COMMIT + READ
    size = 2 * PIECE_OUT + 5

    def say(argv: list[str], stdin: bytes) -> AgentResult:
        if argv[7:8] and argv[8:9] == ["/srv/file"] and len(argv) == 11:
            offset, length = int(argv[9]), int(argv[10])
            return result(FILE % size + bytes(min(length, size - offset)) + b"\n" + FILE % size)
        return say_upload(argv, stdin)

    async def go() -> bytes:
        io = asyncio.get_running_loop()
        machine = cast(Machine, type("Run", (), {"vmid": 341}))
        questions = Questions(io, lambda: cast(Agent, LyingAgent(say)))
        commands = AgentCommands(io, questions, machine)
        files = AgentFiles(commands, write=True)
        files.inbox += asked
        more = True
        while more:
            files = AgentFiles.resume(commands, files.to_state())
            more = await files.advance()
        return bytes(files.outbox)

    assert read_frames(run(go()))[:-1] == serve(say, asked)[:-1]


def test_nothing_is_lost_when_a_command_may_not_begin() -> None:
    """While questions are held a session waits before its command, can be handed over, and does it when it may."""

    async def go() -> None:
        io = asyncio.get_running_loop()
        machine = cast(Machine, type("Run", (), {"vmid": 341}))
        agent = LyingAgent(always(result(FILE % 5)))
        questions = Questions(io, lambda: cast(Agent, agent))
        commands = AgentCommands(io, questions, machine)
        files = AgentFiles(commands, write=False)
        files.inbox += LOOK
        questions.hold()
        waiting = asyncio.ensure_future(files.advance())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not commands.in_hand and questions.quiet and not agent.started
        state = files.to_state()
        assert base64.b64decode(state["inbox"]) == LOOK
        questions.go_on()
        assert await waiting
        assert len(agent.started) == 1 and files.outbox
        questions.hold()
        await commands.run(DROP, last=True)  # what is left of a session that has ended holds nobody up
        assert len(agent.started) == 2

    run(go())


def test_failures_of_a_session_are_raised_to_who_drops_it() -> None:
    """What cannot be removed is told, once."""

    def say(argv: list[str], stdin: bytes) -> AgentResult:
        return result(b"-\n" + PLACE) if argv[6] == BEGIN_WRITE else result(code=8)

    async def go() -> None:
        io = asyncio.get_running_loop()
        machine = cast(Machine, type("Run", (), {"vmid": 341}))
        questions = Questions(io, lambda: cast(Agent, LyingAgent(say)))
        files = AgentFiles(AgentCommands(io, questions, machine), write=True)
        files.inbox += WRITE
        assert await files.advance()
        with pytest.raises(CommandFailed) as told:
            await files.drop()
        assert told.value.failure == Failure(Cause.CHANGED, Step.AGENT)
        await files.drop()

    run(go())
