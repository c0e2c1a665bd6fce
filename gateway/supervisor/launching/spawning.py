"""The way of one command into its guest: lxc-attach starts, the launcher gets ready, lxc-attach ends, the command goes.

lxc-attach is killed while the launcher waits, so that the command becomes the supervisor's own child and its true
wait status is seen. Nothing of the request has run before `go`; a launcher whose supervisor has died never runs it.
"""

from __future__ import annotations

import logging
import os
import signal
import termios
from typing import Protocol

from gateway.exec.view import SpawnError
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.launching.handshake import UNHEARD, Message, receive, send_go, spawn_error, unheard
from gateway.supervisor.launching.launch import Launched

log = logging.getLogger(__name__)


class Spawned(Protocol):
    """Who is told how a spawn goes."""

    def attach_known(self, pid: int) -> None:
        """lxc-attach is on its way as `pid`, in the exec's own place."""

    def terminal_opened(self, master: int) -> None:
        """The command's terminal, non-blocking and of the size that was asked for; yours to close. Told before
        anything of the guest runs."""

    def command_known(self, pid: int) -> bool:
        """The launcher says that it waits in the guest as `pid`. False unless that is where the command belongs."""

    def may_go(self, pid: int) -> bool:
        """Whether the command shall begin: it is our child now and waits. On False its tree is being killed."""

    def did_not_go(self) -> None:
        """It had died before it was told to: nothing of the request has run. `command_died` follows."""

    def began(self) -> None:
        """The program itself runs."""

    def command_died(self, status: int) -> None:
        """The command has ended; `error` tells if it was only the launcher that failed."""

    def came_to_nothing(self) -> None:
        """There is and will be no command; `error` may tell why."""


class Spawn:
    """One launch in progress. `over` is set when lxc-attach is gone and the command, if any, is our child."""

    def __init__(self, loop: Loop, launched: Launched, told: Spawned, name: str) -> None:
        self.error: SpawnError | None = None
        self.over = False
        self.running = False
        self._loop = loop
        self._launched = launched
        self._told = told
        self._name = name
        self._attached = False
        self._unwanted = False
        self._attach_pid: int | None = None
        self._command_pid: int | None = None
        loop.children.before_unknown(self, self.read_messages)
        loop.io.add_reader(launched.status.fileno(), self._read_message)

    @property
    def attached(self) -> bool:
        """Whether the nursery has given birth to it, and it has said so."""
        return self._attached

    def read_messages(self) -> None:
        """Takes what the launcher has said; also called before a death is judged."""
        while self._launched.status.fileno() >= 0 and self._read_message():
            pass

    def kill_attach(self) -> None:
        """Ends lxc-attach on its way; the launcher, if it is in the guest already, then never goes."""
        self._unwanted = True
        if not self.over and self._attach_pid is not None and self._loop.children.owns(self._attach_pid):
            os.kill(self._attach_pid, signal.SIGKILL)

    def close(self) -> None:
        """Gives back the descriptors of the handshake."""
        self._close_status()
        if self._launched.attach_stderr >= 0:
            os.close(self._launched.attach_stderr)
            self._launched.attach_stderr = -1

    def _read_message(self) -> bool:
        """Takes one, if it is there: there is never more than one at a time to wait for."""
        brings_terminal = self._launched.terminal is not None and not self._attached
        message = receive(self._launched.status, terminal=brings_terminal)
        if message is not None:
            self._heard(message)
        return message is not None

    def _heard(self, message: Message) -> None:
        """H, then R or F, then perhaps F, then the end. Whatever else comes was forged by the guest's root."""
        if message.kind == b"H" and not self._attached:
            self._attached = True
            if message.terminal is not None and self._launched.terminal is not None:
                size = self._launched.terminal
                termios.tcsetwinsize(message.terminal, (size.rows, size.cols))
                self._told.terminal_opened(message.terminal)
            self._attach_pid = message.pid
            self._loop.children.watch(message.pid, self._attach_ended)
            self._told.attach_known(message.pid)
            if self._unwanted:
                self.kill_attach()
        elif message.kind == b"R" and self._attach_pid is not None and self._command_pid is None and not self.error:
            self._ready(message.pid)
        elif message.error is not None and self.error is None and not self.running:
            self.error = message.error
            if not self._attached:
                if words := self._attach_words():
                    log.warning("%s: cannot be started: %s", self._name, words.strip())
                self._fail()
        elif message.kind in (b"", UNHEARD):
            self._close_status()
            if not self._attached:  # it died on the host, before it could say a word
                self._fail()
            elif message.kind == UNHEARD and self.over:
                self._told.did_not_go()
            elif self.over and self.error is None and not self.running:
                self.running = True
                self._told.began()
        else:
            self._forged("a message out of order")

    def _ready(self, pid: int) -> None:
        """The claim is the guest's: only a process that is in the exec's own place, and nobody else's, counts."""
        if not self._told.command_known(pid) or not self._loop.children.watch(pid, self._command_died):
            self._forged("a claim to be a process that is not the command")
            return
        self._command_pid = pid
        if self._attach_pid is not None and self._loop.children.owns(self._attach_pid):
            os.kill(self._attach_pid, signal.SIGKILL)

    def _forged(self, what: str) -> None:
        if not self._unwanted:  # else its launcher has just been killed, which looks the same
            log.warning("%s: ended, for its guest sent %s", self._name, what)
        self._close_status()
        self._fail()

    def _attach_ended(self, status: int) -> None:
        self.read_messages()
        self._attach_pid = None
        if self.over:
            return
        if self._command_pid is None:
            if self.error is None and not self._unwanted:
                words, tool = self._attach_words(), self._launched.tool
                log.warning("%s: %s ended with status %d: %r", self._name, tool.program.name, status, words)
                self.error = tool.explain(words)
            self._fail()
        elif not self._loop.children.owns(self._command_pid):
            if self._unwanted:  # killed by us together with lxc-attach, which has reaped it
                self._fail()
            else:
                self._forged("a claim to be a process that is not our child")
        else:
            self.over = True
            if self._told.may_go(self._command_pid) and not send_go(self._launched.status):
                self._told.did_not_go()

    def _command_died(self, status: int) -> None:
        self.read_messages()
        if self.over and not self.running and unheard(self._launched.status):
            self._told.did_not_go()  # somebody still holds its socket, so that it has no end yet: the nursery, perhaps
        self._close_status()
        self.over = True
        self._told.command_died(status)

    def _fail(self) -> None:
        if not self.over:
            self.abandon()
            self._told.came_to_nothing()

    def abandon(self) -> None:
        """Waits for nothing any more; whose end is still to come will be reaped unseen."""
        self.over = True
        self._close_status()
        if self._command_pid is not None:
            self._loop.children.forget(self._command_pid)

    def _close_status(self) -> None:
        self._loop.children.before_unknown(self, None)
        if self._launched.status.fileno() >= 0:
            self._loop.io.remove_reader(self._launched.status.fileno())
            self._launched.status.close()

    def _attach_words(self) -> str:
        try:
            return os.read(self._launched.attach_stderr, 2048).decode(errors="replace")
        except OSError:
            return ""


def attach_failed(number: int) -> SpawnError:
    """The error of a spawn whose lxc-attach did not bring the launcher into the guest."""
    return spawn_error("attach", number)
