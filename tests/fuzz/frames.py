"""What is sent on a WebSocket: frames of RFC 6455 and messages of pvex.v1, good ones and every way to break them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

PROTOCOL = frozenset({1002})
NOT_TEXT = frozenset({1007})
TOO_BIG = frozenset({1009})
MALFORMED = frozenset({4400})
GOODBYE = frozenset({1000})


@dataclass(frozen=True)
class Move:
    """Bytes for the server, and the codes that it has to close with then; none where it goes on."""

    name: str
    data: bytes
    closes: frozenset[int] = frozenset()
    silent: bool = False
    """Whether what the frame promises never comes: the server waits, and the client has to leave without a goodbye."""


@dataclass
class Player:
    """Makes moves for one connection; `writes`: what it sends as input is taken."""

    chance: random.Random
    writes: bool
    offset: int = 0
    joining: bool = False
    used: list[str] = field(default_factory=list)

    def next(self, *, good: bool) -> Move:
        """The next move, one of those that break nothing if `good`."""
        makers = _GOOD if good else _BAD
        maker = self.chance.choice(makers)
        move: Move = maker(self)
        self.used.append(move.name)
        return move

    def frame(self, opcode: int, payload: bytes = b"", **options: Any) -> bytes:
        """One frame of a client, masked by a key of chance."""
        return encode(opcode, payload, mask=self.chance.randbytes(4), **options)

    def text(self, message: Any) -> bytes:
        return self.frame(TEXT, json.dumps(message).encode())

    def input(self, size: int) -> bytes:
        """A message of input that goes on where the last one ended."""
        data = struct.pack(">BQ", 0, self.offset) + self.chance.randbytes(size)
        self.offset += size
        return data


def encode(
    opcode: int, payload: bytes, *, mask: bytes | None, fin: bool = True, rsv: int = 0, form: int | None = None,
    length: int | None = None,
) -> bytes:  # fmt: skip
    """A frame. `mask` None sends it bare; `form`: bits of the length, 7, 16 or 64, else the fewest; `length` lies."""
    told = len(payload) if length is None else length
    form = form or (7 if told < 126 else 16 if told < 1 << 16 else 64)
    masked = 0x80 if mask is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if form == 7:
        head += bytes([masked | told])
    elif form == 16:
        head += bytes([masked | 126]) + struct.pack(">H", told)
    else:
        head += bytes([masked | 127]) + struct.pack(">Q", told)
    if mask is None:
        return head + payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    hidden = (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload)) if payload else b""
    return head + mask + hidden


# ---- good moves


def _input(player: Player) -> Move:
    return Move("input", player.frame(BINARY, player.input(player.chance.choice([0, 1, 7, 1000, 20_000]))))


def _input_again(player: Player) -> Move:
    data = struct.pack(">BQ", 0, max(0, player.offset - player.chance.choice([0, 1, 500])))
    return Move("input again", player.frame(BINARY, data))


def _input_ahead(player: Player) -> Move:
    """Refused with an `error` message, and all goes on (to the one who may write)."""
    ahead = player.chance.choice([1, 1 << 20, (1 << 63) - player.offset, (1 << 64) - 1 - player.offset])
    return Move("input ahead", player.frame(BINARY, struct.pack(">BQ", 0, player.offset + ahead) + b"x"))


def _fragments(player: Player) -> Move:
    data = player.input(player.chance.choice([0, 3, 3000]))
    cuts = sorted(player.chance.randrange(len(data) + 1) for _ in range(player.chance.randrange(1, 20)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    sent = b""
    for number, piece in enumerate(pieces):
        opcode = BINARY if number == 0 else CONTINUATION
        sent += player.frame(opcode, piece, fin=number == len(pieces) - 1)
        if player.chance.random() < 0.3 and number < len(pieces) - 1:
            sent += player.frame(PING, b"between")
    return Move("fragments", sent)


def _control(player: Player) -> Move:
    message = player.chance.choice(
        [
            {"type": "ack", "cursor": player.chance.choice([0, 1, 10**6, 10**18])},
            {"type": "resize", "rows": 50, "cols": 132},
            {"type": "signal", "signal": player.chance.choice(["WINCH", 28, "URG"])},
        ]
    )
    return Move("control", player.text(message))


def _control_of_wrong_members(player: Player) -> Move:
    """Told by an `error` message (422), or by one that it may not (409, 403); the connection goes on."""
    junk: Any = player.chance.choice([None, True, -1, 1.5, "x" * 1000, [], {}, [[]] * 50, 10**30, "\0"])
    message = player.chance.choice(
        [
            {"type": "ack", "cursor": junk if junk != 10**30 else "9"},
            {"type": "resize", "rows": junk, "cols": junk},
            {"type": "signal", "signal": junk},
            {"type": "signal", "signal": "WINCH", "to": junk},
            {"type": "ack"},
            {"type": "stdin_eof", "more": junk},
            {"type": "resize", "rows": 1, "cols": 1, "type ": junk},
        ]
    )
    return Move("control of wrong members", player.text(message))


def _ping(player: Player) -> Move:
    return Move("ping", player.frame(PING, player.chance.randbytes(player.chance.choice([0, 1, 125]))))


def _pong(player: Player) -> Move:
    return Move("pong", player.frame(PONG, player.chance.randbytes(5)))


def _many_tiny(player: Player) -> Move:
    return Move("many tiny", player.frame(PONG) * player.chance.choice([10, 2000]))


def _many_pings(player: Player) -> Move:
    return Move("many pings", b"".join(player.frame(PING, b"x" * 125) for _ in range(300)))


# ---- bad moves: each ends the connection


def _random_bytes(player: Player) -> Move:
    # RSV bits first: whatever follows, it is no frame.
    return Move("random bytes", b"\xf3" + player.chance.randbytes(player.chance.randrange(1, 300)), PROTOCOL)


def _bare(player: Player) -> Move:
    return Move("not masked", encode(player.chance.choice([TEXT, BINARY, PING]), b"{}", mask=None), PROTOCOL)


def _reserved_bits(player: Player) -> Move:
    return Move("reserved bits", player.frame(BINARY, player.input(3), rsv=player.chance.randrange(1, 8)), PROTOCOL)


def _reserved_opcode(player: Player) -> Move:
    opcode = player.chance.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
    return Move("reserved opcode", player.frame(opcode, b"x"), PROTOCOL)


def _control_frame_cut(player: Player) -> Move:
    return Move("a ping in fragments", player.frame(PING, b"x", fin=False), PROTOCOL)


def _control_frame_long(player: Player) -> Move:
    return Move("a ping of 126", player.frame(player.chance.choice([PING, PONG, CLOSE]), b"x" * 126), PROTOCOL)


def _loose_continuation(player: Player) -> Move:
    return Move("continues nothing", player.frame(CONTINUATION, b"x"), PROTOCOL)


def _message_in_message(player: Player) -> Move:
    sent = player.frame(BINARY, player.input(3), fin=False) + player.frame(TEXT, b"{}")
    return Move("a message within one", sent, PROTOCOL)


def _length_not_shortest(player: Player) -> Move:
    form = player.chance.choice([16, 64])
    return Move("a length too long", player.frame(BINARY, player.input(5), form=form), PROTOCOL)


def _length_with_sign(player: Player) -> Move:
    return Move("a length of 2^63", player.frame(BINARY, b"x", form=64, length=1 << 63), PROTOCOL)


def _not_utf8(player: Player) -> Move:
    bad = player.chance.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"{\x80}", b"\xe2\x82"])
    return Move("not UTF-8", player.frame(TEXT, bad), NOT_TEXT)


def _not_utf8_in_fragments(player: Player) -> Move:
    sent = player.frame(TEXT, b"\xe2", fin=False) + player.frame(CONTINUATION, b"\x28\xa1")
    return Move("not UTF-8, in fragments", sent, NOT_TEXT)


def _huge(player: Player) -> Move:
    kind = player.chance.choice([TEXT, BINARY])
    piece = b" " * (256 << 10)
    sent = player.frame(kind, piece, fin=False) + player.frame(CONTINUATION, piece, fin=False) * 4
    return Move("over a mebibyte", sent, TOO_BIG | (MALFORMED if kind == TEXT else frozenset()))


def _no_json(player: Player) -> Move:
    text = player.chance.choice(
        [b"", b"{", b"null", b"[]", b'"ack"', b"1e999", b"[" * 4000, b'{"type": 1}', b'{"type": "start"}', b"{}",
         b'{"type": "exit"}', b'{"type": null}', b'{"type": ["ack"]}', b"9" * 4000, b'{"type": "ack", "cursor": 1',
         b'{"type": "ack", "cursor": 0}' + b" " * 4096, b'{"type": "signal", "signal": "\\ud800"}']
    )  # fmt: skip
    return Move("no control message", player.frame(TEXT, text), MALFORMED)


def _bad_binary(player: Player) -> Move:
    data = player.chance.choice([b"", b"\0", b"\0" * 8, struct.pack(">BQ", player.chance.randrange(1, 256), 0) + b"x"])
    # Who may not write is told that, whatever it sends.
    return Move("no input message", player.frame(BINARY, data), MALFORMED if player.writes else frozenset())


def _goodbye(player: Player) -> Move:
    code = player.chance.choice([1000, 1001, 3000, 4999])
    said = struct.pack(">H", code) + player.chance.choice([b"", b"bye", "tschüß".encode()])
    after = player.chance.choice([b"", player.frame(BINARY, b"after"), player.chance.randbytes(50)])
    return Move("goodbye", player.frame(CLOSE, said) + after, frozenset({code}))


def _empty_goodbye(player: Player) -> Move:
    return Move("goodbye without a code", player.frame(CLOSE), frozenset({1000, 1005}))


def _bad_goodbye(player: Player) -> Move:
    said = player.chance.choice(
        [b"\x03", *(struct.pack(">H", code) for code in (0, 999, 1004, 1005, 1006, 1015, 5000))]
    )
    return Move("goodbye that is none", player.frame(CLOSE, said), PROTOCOL)


def _goodbye_not_utf8(player: Player) -> Move:
    return Move("goodbye not in UTF-8", player.frame(CLOSE, b"\x03\xe8\xff\xfe"), PROTOCOL | NOT_TEXT)


def _never_whole(player: Player) -> Move:
    length = player.chance.choice([1 << 40, (1 << 63) - 1, 1 << 20, 70_000])
    sent = player.frame(BINARY, b"x" * player.chance.randrange(1000), form=64, length=length)
    return Move("never whole", sent, silent=True)


def _half_a_frame(player: Player) -> Move:
    sent = player.frame(BINARY, player.input(3000))
    return Move("half a frame", sent[: player.chance.randrange(1, len(sent))], silent=True)


Maker = Callable[[Player], Move]
_GOOD: tuple[Maker, ...] = (
    _input, _input_again, _input_ahead, _fragments, _control, _control_of_wrong_members, _ping, _pong, _many_tiny,
    _many_pings,
)  # fmt: skip
_BAD: tuple[Maker, ...] = (
    _random_bytes, _bare, _reserved_bits, _reserved_opcode, _control_frame_cut, _control_frame_long,
    _loose_continuation, _message_in_message, _length_not_shortest, _length_with_sign, _not_utf8,
    _not_utf8_in_fragments, _huge, _no_json, _bad_binary, _goodbye, _empty_goodbye, _bad_goodbye, _goodbye_not_utf8,
    _never_whole, _half_a_frame,
)  # fmt: skip
