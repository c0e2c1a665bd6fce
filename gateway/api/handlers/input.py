"""What is sent to a running exec: input, signals, a terminal's size."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.models.input import ResizeRequest, SignalRequest, StdinQuery, StdinState, Target
from gateway.api.parse import read_pieces
from gateway.api.services import Services

PIECE = 256 << 10


def put_stdin(services: Services, call: Call) -> Reply:
    """Hands the body on as it comes, each piece when the command has room, for as long as the caller may. One that
    breaks off loses nothing taken."""
    query: StdinQuery = call.query
    offset = query.offset
    taken = None
    for piece in read_pieces(call.environ, PIECE):
        taken = services.supervisor.put_stdin(call.exec_id, call.latest_origin, piece, offset, False)
        offset = None if offset is None else offset + len(piece)
    if taken is None or query.eof:
        taken = services.supervisor.put_stdin(call.exec_id, call.latest_origin, b"", offset, query.eof)
    state: StdinState = {"offset": taken.offset, "eof": taken.eof}
    return Reply(state)


def send_signal(services: Services, call: Call) -> Reply:
    """Sends a signal to the command, or to its whole tree."""
    asked: SignalRequest = call.body
    view = services.supervisor.signal(call.exec_id, call.origin, asked.number, asked.to is Target.TREE)
    return Reply(view)


def resize_terminal(services: Services, call: Call) -> Reply:
    """Gives the exec's terminal another size."""
    size: ResizeRequest = call.body
    return Reply(services.supervisor.resize(call.exec_id, call.origin, size.rows, size.cols))
