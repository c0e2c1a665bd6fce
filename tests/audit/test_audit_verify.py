"""What `audit verify` finds: every change to a log, at its place."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from gateway.audit.anchor import Anchor, read_anchors, write_anchor
from gateway.audit.chain import Chain, Head
from gateway.audit.files import LOG_NAME
from gateway.audit.keys import AuditKeys
from gateway.audit.log import AuditLog
from gateway.audit.settings import AuditSettings
from gateway.audit.verify import find_hash, verify, verify_command
from gateway.audit.walk import Wrong
from gateway.exec.spec import ExecSpec
from gateway.exec.trail import shown_command

from .live import intent, keys_of, limits, make_settings

Place = tuple[str, int]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> AuditSettings:
    """A log of about 60 records in several files."""
    settings = make_settings(tmp_path_factory.mktemp("log"))
    log = AuditLog(settings.directory, keys_of(settings), limits=limits(rotate_bytes=3000), sync=lambda _: None)
    for number in range(40):
        log.append([intent(number)])
    log.close()
    return settings


def read_files(directory: Path) -> dict[str, list[bytes]]:
    """Lines by file, oldest file first."""
    names = sorted(path.name for path in directory.iterdir())
    return {
        name: (directory / name).read_bytes().splitlines(keepends=True)
        for name in [*(name for name in names if name != LOG_NAME), LOG_NAME]
    }


def first_difference(before: dict[str, list[bytes]], after: dict[str, list[bytes]]) -> Place:
    """The oracle: the place, in the changed log, of the first line that is not what stood there."""
    was = [line for lines in before.values() for line in lines]
    now = [(name, number, line) for name, lines in after.items() for number, line in enumerate(lines, 1)]
    for old, (name, number, line) in zip(was, now, strict=False):
        if old != line:
            return name, number
    name, number, _ = now[min(len(was), len(now)) - 1] if len(now) <= len(was) else (*now[len(was)][:2], b"")
    return (name, number + 1) if len(now) <= len(was) else (name, number)


def mutate(files: dict[str, list[bytes]], rng: random.Random) -> None:
    """One change of a kind and at a place that `rng` picks."""
    name = rng.choice([name for name, lines in files.items() if lines])
    lines = files[name]
    at = rng.randrange(len(lines))
    match rng.choice(["flip", "cut", "remove", "forge", "copy", "swap", "tail"]):
        case "flip":
            line = bytearray(lines[at])
            line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
            lines[at : at + 1] = bytes(line).splitlines(keepends=True)
        case "cut":
            where = rng.randrange(1, len(lines[at]) - 1)
            lines[at] = lines[at][:where] + b"\n"
        case "remove":
            del lines[at]
        case "forge":
            lines.insert(at, lines[at].replace(b"ex_", b"ey_").replace(b'"v":1', b'"v":2'))
        case "copy":
            other = rng.choice([line for lines in files.values() for line in lines])
            lines.insert(at, other)
        case "swap":
            other_name = rng.choice([name for name, lines in files.items() if lines])
            to = rng.randrange(len(files[other_name]))
            lines[at], files[other_name][to] = files[other_name][to], lines[at]
        case "tail":
            for _ in range(rng.randrange(1, min(30, sum(map(len, files.values()))))):
                newest = [name for name, lines in files.items() if lines][-1]
                files[newest].pop()


def make_log(settings: AuditSettings, rng: random.Random) -> AuditSettings:
    """One log as `rng` has it: records of all sizes in batches, closed files of any size, restarts, old ones pruned."""
    bounds = limits(rotate_bytes=rng.choice([1500, 3000, 9000]), max_bytes=rng.choice([30_000, 1 << 20]))
    number = 0
    for _ in range(rng.randrange(1, 4)):
        log = AuditLog(settings.directory, keys_of(settings), limits=bounds, sync=lambda _: None)
        for _ in range(rng.randrange(4, 16)):
            sizes = [rng.choice([0, 10, 300, 2000]) for _ in range(rng.randrange(1, 5))]
            log.append([intent(number + index, blob="é" * size) for index, size in enumerate(sizes)])
            number += len(sizes)
        log.close()
    return settings


@pytest.mark.parametrize("seed", range(100))
def test_each_mutation_is_named_at_its_place(tmp_path: Path, seed: int) -> None:
    """C5: flip, cut, remove, forge, copy, swap, drop the tail in 100 seeded logs: the verdict names file and line."""
    rng = random.Random(seed)
    log = make_log(make_settings(tmp_path, tmp_path / "made"), rng)
    keys = keys_of(log)
    before = read_files(log.directory)
    last = verify(log.directory, keys)
    assert last.fault is None
    anchors = [Anchor(Head(last.last, head_mac(before)), LOG_NAME, "2026-01-01T00:00:00.000000Z")]
    for turn in range(5):
        check_one_change(before, tmp_path / str(turn), keys, anchors, rng)


def check_one_change(
    before: dict[str, list[bytes]], changed: Path, keys: AuditKeys, anchors: list[Anchor], rng: random.Random
) -> None:
    """Change the log in one way; `verify` names the first place that is not as it was."""
    after = {name: list(lines) for name, lines in before.items()}
    while after == before:
        mutate(after, rng)
    changed.mkdir()
    for name, lines in after.items():
        (changed / name).write_bytes(b"".join(lines))
    verdict = verify(changed, keys, anchors)
    assert verdict.fault, "not noticed"
    assert (verdict.fault.file, verdict.fault.line) == first_difference(before, after), str(verdict.fault)


def head_mac(files: dict[str, list[bytes]]) -> str:
    return files[LOG_NAME][-1].split(b'"mac":"')[1][:64].decode()


def rewrite(log: AuditSettings, to: Path, name: str, lines: list[bytes]) -> AuditSettings:
    """A copy of `log` in which the file `name` holds `lines`."""
    shutil.copytree(log.directory, to / "log")
    (to / "log" / name).write_bytes(b"".join(lines))
    return AuditSettings(directory=to / "log", socket=log.socket, key_file=log.key_file)


@pytest.mark.parametrize(
    ("change", "wrong", "line"),
    [
        ("replace", Wrong.CHANGED, 3),
        ("remove", Wrong.REMOVED, 3),
        ("swap", Wrong.REORDERED, 3),
        ("insert", Wrong.ADDED, 3),
        ("repeat", Wrong.ADDED, 4),
        ("unterminated", Wrong.TORN, 4),
    ],
)
def test_each_kind_of_change_has_its_name(
    log: AuditSettings, tmp_path: Path, change: str, wrong: Wrong, line: int
) -> None:
    """The verdict says what was done, not only where."""
    name, lines = next(iter(read_files(log.directory).items()))
    assert len(lines) >= 5
    match change:
        case "replace":
            lines[2] = lines[2].replace(b"nginx", b"mysql")
        case "remove":
            del lines[2]
        case "swap":
            lines[2], lines[3] = lines[3], lines[2]
        case "insert":
            lines.insert(2, b'{"event":"exec:intent"}\n')
        case "repeat":
            lines.insert(3, lines[2])
        case "unterminated":
            lines[3:] = [lines[3][:-9]]
    verdict, code = verify_command(rewrite(log, tmp_path, name, lines).directory, log.key_file)
    assert code == 1 and verdict.fault
    assert (verdict.fault.wrong, verdict.fault.line) == (wrong, line), str(verdict.fault)


def test_a_dropped_tail_needs_the_anchors(log: AuditSettings, tmp_path: Path) -> None:
    """Without anchors a shortened log looks whole; with them it does not."""
    keys = keys_of(log)
    lines = read_files(log.directory)[LOG_NAME]
    whole = verify(log.directory, keys)
    anchor = write_anchor(Anchor(Head(whole.last, head_mac(read_files(log.directory))), LOG_NAME, "now"), keys.anchor)
    cut = rewrite(log, tmp_path, LOG_NAME, lines[:-1])
    assert verify(cut.directory, keys).fault is None
    verdict, code = verify_command(cut.directory, log.key_file, [anchor])
    assert code == 1 and verdict.fault and verdict.fault.wrong is Wrong.TAIL_DROPPED
    assert (verdict.fault.line, verdict.fault.seq) == (len(lines), whole.last)
    assert verify_command(log.directory, log.key_file, [anchor])[1] == 0


def test_a_log_rewritten_with_the_key_is_betrayed_by_its_anchors(log: AuditSettings, tmp_path: Path) -> None:
    """Who has the key can make a perfect chain, but not the one the journal saw."""
    keys = keys_of(log)
    forged = AuditLog(tmp_path / "log", keys, limits=limits(rotate_bytes=1 << 20))
    heads = forged.append([intent(number) for number in range(60)])
    anchor = Anchor(Head(heads[9].seq, "0" * 64), LOG_NAME, "now")
    fault = verify(tmp_path / "log", keys, [anchor]).fault
    assert fault and (fault.wrong, fault.seq, fault.line) == (Wrong.CHANGED, heads[9].seq, heads[9].seq)


def test_only_our_own_anchors_count(log: AuditSettings) -> None:
    """Anybody may write to the journal under our name; a line without our signature raises no alarm."""
    key = keys_of(log).anchor
    good = write_anchor(Anchor(Head(7, "a" * 64), LOG_NAME, "now"), key)
    lines = [
        good.replace('"seq":7', '"seq":9'),
        "-- Journal begins --",
        '{"seq": 9, "sig": "é"}',
        "[" * 5000,
        '{"MESSAGE": ' + good.replace('"', '\\"').join(['"', '"']) + ', "_PID": "1"}',
        good,
    ]
    assert [anchor.head.seq for anchor in read_anchors(lines, key)] == [7, 7]


def test_a_log_rolled_back_and_continued_is_betrayed(log: AuditSettings, tmp_path: Path) -> None:
    """An older copy of the directory, written on until each anchored number was given and anchored once more: the
    journal has two anchors of one number then, and no log fits both, in whichever order they are read."""
    keys = keys_of(log)
    older = tmp_path / "older"
    shutil.copytree(log.directory, older)
    lines = (older / LOG_NAME).read_bytes().splitlines(keepends=True)
    (older / LOG_NAME).write_bytes(b"".join(lines[:-1]))
    was = verify(log.directory, keys)
    chain = Chain(keys.chain)
    old = Anchor(chain.open(lines[-1].rstrip(b"\n")).head, LOG_NAME, "2026-11-21T00:00:00.000000Z")  # type: ignore[union-attr]
    writer = AuditLog(older, keys, limits=limits(), sync=lambda _: None)
    writer.append([])
    assert writer.head is not None and writer.head.seq == was.last
    new = Anchor(writer.head, LOG_NAME, "2026-11-21T00:01:00.000000Z")
    writer.close()
    assert verify(older, keys, [new]).fault is None
    for anchors in ([old, new], [new, old]):
        fault = verify(older, keys, anchors).fault
        assert fault and fault.wrong is Wrong.CHANGED and fault.seq == was.last


@pytest.mark.parametrize("spliced", ["tail", "record"])
def test_two_branches_of_a_log_do_not_fit_together(log: AuditSettings, tmp_path: Path, spliced: str) -> None:
    """An older copy that was written on has genuine records with the numbers of those it lost: put among the others,
    they are found by what they follow, though every line is the writer's and no number is missing."""
    keys = keys_of(log)
    lines = (log.directory / LOG_NAME).read_bytes().splitlines(keepends=True)
    branch = rewrite(log, tmp_path, LOG_NAME, lines[:1])
    writer = AuditLog(branch.directory, keys, limits=limits(), sync=lambda _: None)
    writer.append([intent(99) for _ in lines[1:]])
    writer.close()
    assert verify(branch.directory, keys).fault is None
    other = (branch.directory / LOG_NAME).read_bytes().splitlines(keepends=True)
    mixed = [*lines[:2], *other[2:]] if spliced == "tail" else [lines[0], other[1], *lines[2:]]
    (branch.directory / LOG_NAME).write_bytes(b"".join(mixed))
    fault = verify(branch.directory, keys).fault
    assert fault and (fault.wrong, fault.line) == (Wrong.CHANGED, 3), str(fault)


def test_anchors_that_were_not_checked_are_told(tmp_path: Path) -> None:
    """Those of records that were pruned cannot be checked: the verdict says how many."""
    settings = make_settings(tmp_path)
    log = AuditLog(settings.directory, keys_of(settings), limits=limits(2000, 8000), sync=lambda _: None)
    anchors = []
    for number in range(60):
        log.append([intent(number)])
        assert log.head is not None
        anchors.append(Anchor(log.head, LOG_NAME, ""))
    log.close()
    verdict = verify(settings.directory, keys_of(settings), anchors)
    assert verdict.fault is None and verdict.first > 1
    assert verdict.unchecked == sum(anchor.head.seq < verdict.first for anchor in anchors) > 0
    assert verdict.anchors == len(anchors) - verdict.unchecked


def test_a_hashed_value_can_be_looked_up(settings: AuditSettings) -> None:
    """`audit hash` finds the records in which a secret stood, at any depth, without storing it."""
    keys = keys_of(settings)
    log = AuditLog(settings.directory, keys, limits=limits(rotate_bytes=1 << 20))
    log.append([intent(1), intent(2, env={"TOKEN": keys.redactor.hash("s3cret")})])
    found = list(find_hash(settings.directory, keys, "s3cret"))
    assert [(line.file, line.number) for line in found] == [(LOG_NAME, 3)]
    assert b"s3cret" not in (settings.directory / LOG_NAME).read_bytes()


def test_a_long_argument_can_be_looked_up(settings: AuditSettings) -> None:
    """What a long argument was cut to holds its hash: `audit hash` finds that, too."""
    word = "x" * 5000
    spec = ExecSpec.model_validate({"command": ["echo", word]})
    log = AuditLog(settings.directory, keys_of(settings), limits=limits())
    log.append([intent(1, command=shown_command(spec, keys_of(settings).redactor.hash))])
    assert [line.number for line in find_hash(settings.directory, keys_of(settings), word)] == [2]


def test_no_log_at_all_is_whole_but_for_its_anchors(settings: AuditSettings) -> None:
    """A directory that was emptied is only found out by the journal."""
    keys = keys_of(settings)
    settings.directory.mkdir()
    assert verify(settings.directory, keys).fault is None
    fault = verify(settings.directory, keys, [Anchor(Head(5, "a" * 64), LOG_NAME, "now")]).fault
    assert fault and (fault.wrong, fault.seq) == (Wrong.TAIL_DROPPED, 1)
