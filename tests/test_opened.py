"""A test that fails with a connection open fails alone."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.opened import closing_all, noted


def test_what_a_failing_test_left_open_is_closed() -> None:
    """Also one that a reply is read from, which keeps it open beyond its `close`; older ones are let be."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        older = noted(socket.create_connection(server.getsockname()))
        with pytest.raises(ZeroDivisionError) as failed, closing_all():
            left = noted(socket.create_connection(server.getsockname()))
            reply = left.makefile("rb")
            left.close()
            assert left.fileno() >= 0
            raise ZeroDivisionError
        assert (left.fileno(), reply.closed, failed.tb is not None) == (-1, False, True)
        assert older.fileno() >= 0
        older.close()


def test_every_test_has_that() -> None:
    """By the conftest of all."""
    assert "with closing_all():" in (Path(__file__).parent / "conftest.py").read_text()
