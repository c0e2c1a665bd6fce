"""The audit reader process: searches and verifies, so that the writer, which has the log to itself, never waits for it.

The writer hands it connections of checked peers, each with its question. It has the key, opens the log for reading
only, and lives as long as the writer. Run by `reading.ReaderProcess`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import traceback
from typing import Any

from gateway.audit.chain import Head
from gateway.audit.keys import AuditKeys, load_keys
from gateway.audit.parts import Cursor, verify_part
from gateway.audit.protocol import MAX_FRAME, Code, encode_frame
from gateway.audit.search import Query, search
from gateway.audit.settings import AuditSettings
from gateway.confinement import keep_memory_private

AT_ONCE = 4
_SEND_SECONDS = 5.0
_NICE = 5


def main() -> int:
    keep_memory_private()
    settings = AuditSettings.from_json(sys.argv[1])
    os.nice(_NICE)  # the writer, and what waits for it, goes first
    with socket.socket(fileno=int(sys.argv[2])) as writer:
        os.set_inheritable(writer.fileno(), False)
        serve(writer, settings, load_keys(settings.key_file))
    return 0


def serve(writer: socket.socket, settings: AuditSettings, keys: AuditKeys) -> None:
    """Answer until the writer is gone. A question is a thread; more searches than `AT_ONCE`, and more verifications
    than one, are refused."""
    searches, verifications = threading.BoundedSemaphore(AT_ONCE), threading.BoundedSemaphore(1)

    def answer(peer: socket.socket, message: dict[str, Any], places: threading.BoundedSemaphore) -> None:
        with peer, contextlib.suppress(OSError):
            try:
                reply = _answer(message, settings, keys)
                if places is searches:  # a slow taker of a long answer keeps its place
                    peer.sendall(reply)
            finally:
                places.release()
            if places is verifications:  # who has the answer may ask for the next part at once
                peer.sendall(reply)

    while True:
        data, fds, _, _ = socket.recv_fds(writer, MAX_FRAME, 1)
        if not data or not fds:
            os._exit(0)  # without waiting for searches: nobody is left to answer to
        peer = socket.socket(fileno=fds[0])
        peer.settimeout(_SEND_SECONDS)
        message = json.loads(data)
        places = verifications if "verify" in message else searches
        if places.acquire(blocking=False):
            threading.Thread(target=answer, args=(peer, message, places), daemon=True).start()
        else:
            with peer, contextlib.suppress(OSError):
                peer.sendall(_refusal(message, Code.BUSY, "the log is asked too much at once; try again"))


def _answer(message: dict[str, Any], settings: AuditSettings, keys: AuditKeys) -> bytes:
    try:
        answer = _verify if "verify" in message else _search
        return b"".join(answer(message, settings, keys))
    except (ValueError, TypeError, OverflowError) as exc:
        return _refusal(message, Code.INVALID_RECORD, f"not a query: {exc}")
    except OSError as exc:
        return _refusal(message, Code.UNAVAILABLE, f"cannot read the audit log: {exc.strerror}")
    except Exception:
        traceback.print_exc()
        return _refusal(message, Code.UNAVAILABLE, "the audit reader has a defect; its log tells which")


def _search(message: dict[str, Any], settings: AuditSettings, keys: AuditKeys) -> list[bytes]:
    """A frame for each record, then one that says where the page ends."""
    page = search(settings.directory, keys, Query.from_wire(message.get("query")))
    frames = [encode_frame({"id": message["id"], "found": record}) for record in page.records]
    return [*frames, encode_frame({"id": message["id"], "page": {"next": page.next}})]


def _verify(message: dict[str, Any], settings: AuditSettings, keys: AuditKeys) -> list[bytes]:
    asked = message["verify"]
    cursor = Cursor.parse(asked["after"]) if asked["after"] is not None else None
    head = Head(**asked["head"]) if asked["head"] else None
    part = verify_part(settings.directory, keys, cursor, head)
    return [encode_frame({"id": message["id"], "part": part.to_wire()})]


def _refusal(message: dict[str, Any], code: Code, detail: str) -> bytes:
    return encode_frame({"id": message["id"], "error": {"code": code, "detail": detail}})


if __name__ == "__main__":
    sys.exit(main())
