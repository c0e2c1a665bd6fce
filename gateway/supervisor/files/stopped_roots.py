"""The root file systems of stopped containers: mounted while somebody needs them, and never left so.

After a kill, or a loss of power, what was mounted is gone (pct_mounts); the next supervisor takes off the locks that
are ours (mount_marks).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.config import Config
from gateway.errors import GatewayError, GuestNotFound, GuestNotRunning, GuestUnsupported, NodeNotReady
from gateway.errors_files import GuestFilesFailed
from gateway.errors_pve import GuestLocked, PveFailed
from gateway.supervisor.files.mount_marks import MountMarks
from gateway.supervisor.files.pct_mounts import SECONDS, PctMounts, PctSaid
from gateway.supervisor.guests.container_config import ContainerConfig, read_container_config
from gateway.supervisor.guests.containers import Guests

log = logging.getLogger(__name__)

LOCK = "mounted"
LINGER_SECONDS = 1.0
"""How long it stays mounted for the next request: pct takes a second and a half each way."""
_LOOK_SECONDS = 0.25
_USED_SECONDS, _LEAVE_SECONDS = 5.0, 10.0
_MAX_WORDS = 256


class Root:
    """One container's, from `pct mount` to `pct unmount`. `users` count."""

    def __init__(self, vmid: int, path: Path, config: ContainerConfig, io: asyncio.AbstractEventLoop) -> None:
        self.vmid = vmid
        self.path = path
        """Where it is, in the namespace."""
        self.config = config
        self.mounts = -1
        """The namespace in which it is mounted."""
        self.users = 0
        self.in_the_way_of = 0
        """How many changes wait for its going."""
        self.leaving = False
        self.wanted_off = False
        self.mounted: asyncio.Future[None] = io.create_future()
        self.keeper: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()

    def give_back(self) -> None:
        """One does not need it any more."""
        self.users -= 1
        self.changed.set()

    def leave(self) -> None:
        """It is about to be unmounted: nobody takes it any more."""
        self.leaving = True
        self.changed.set()


class StoppedRoots:
    """Each is mounted once, however many need it."""

    def __init__(self, io: asyncio.AbstractEventLoop, config: Config, guests: Guests, pct: PctMounts) -> None:
        self._io = io
        self._config = config
        self._guests = guests
        self._pct = pct
        self._marks = MountMarks(config.spool.directory / "mounted")
        self._roots: dict[int, Root] = {}
        self._recovering: asyncio.Task[None] | None = None
        self._stopped = False
        self.on_started: Callable[[int], object] = lambda _: None
        """Called with the vmid of a container that has been started while its root is held."""

    @property
    def under_way(self) -> bool:
        """Whether pct runs: that cannot be handed to another image."""
        return self._recovering is not None or any(
            root.leaving or not root.mounted.done() for root in self._roots.values()
        )

    def check(self, vmid: int, *, write: bool) -> ContainerConfig:
        """Whether it may be mounted; nothing is touched. Raises GuestNotFound, GuestLocked, GuestUnsupported,
        GuestNotRunning for one that is on its way up or down, NodeNotReady."""
        if self._guests.seems_to_run(vmid):
            raise GuestNotRunning(f"guest {vmid} is starting or stopping; try again", vmid=vmid)
        config = read_container_config(self._config.pve.etc, self._config.node, vmid)
        if config.template and write:
            raise GuestUnsupported(f"guest {vmid} is a template: others are made of its files", vmid=vmid)
        if config.lock is not None and not (config.lock == LOCK and self._marks.has(vmid)):
            raise GuestLocked(
                f"guest {vmid} is stopped and locked ({config.lock}): its file system cannot be mounted; try again",
                vmid=vmid,
                lock=config.lock,
            )
        return config

    async def take(self, vmid: int, *, write: bool) -> Root:
        """Its root, mounted, for as long as nobody starts it. Raises what `check` does, PveFailed, GuestFilesFailed for
        one that has been started meanwhile."""
        while (waits_for := self._in_the_way(vmid)) is not None:
            await asyncio.wait([waits_for])
        root = self._roots.get(vmid)
        if root is None:
            if self._stopped:
                raise NodeNotReady("the supervisor is being stopped; try again", missing=["supervisor"], retry_after=1)
            root = self._begin(vmid, self.check(vmid, write=write))
        elif root.config.template and write:
            self.check(vmid, write=write)
        root.users += 1
        try:
            await asyncio.shield(root.mounted)
        except GatewayError as exc:
            root.give_back()
            raise type(exc)(exc.detail, **exc.evidence) from exc  # each who waited has one of its own
        except BaseException:
            root.give_back()
            raise
        return root

    def _in_the_way(self, vmid: int) -> asyncio.Task[None] | None:
        """What has to end first."""
        root = self._roots.get(vmid)
        return root.keeper if root is not None and root.leaving else self._recovering

    async def let_go(self, vmid: int) -> None:
        """Has it unmounted for a change, which PVE makes of nothing mounted: at once where nobody uses it, behind those
        who do if they end within five seconds. Returns when it is, or will not be in time, which PVE then says."""
        root = self._roots.get(vmid)
        if root is None or root.keeper is None:
            if self._recovering is not None and self._marks.has(vmid):
                await asyncio.wait([self._recovering], timeout=_LEAVE_SECONDS)
            return
        root.in_the_way_of += 1
        root.changed.set()
        try:
            async with asyncio.timeout(_USED_SECONDS):
                while not root.leaving:
                    root.changed.clear()
                    await root.changed.wait()
        except TimeoutError:
            return
        finally:
            root.in_the_way_of -= 1
        await asyncio.wait([root.keeper], timeout=_LEAVE_SECONDS)

    async def shut_down(self, timeout: float) -> None:
        """All goes. What does not in time, the next supervisor sees to."""
        self._stopped = True
        for root in self._roots.values():
            root.wanted_off = True
            root.changed.set()
        keepers = [root.keeper for root in self._roots.values() if root.keeper is not None]
        if keepers:
            await asyncio.wait(keepers, timeout=timeout)

    # ---- handing over to the next image of this program

    def to_state(self) -> list[dict[str, Any]]:
        """What `resume` needs; descriptors by number."""
        return [{"vmid": root.vmid, "fds": {"mounts": root.mounts}} for root in self._roots.values()]

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on with one that an earlier image of this program mounted."""
        vmid = state["vmid"]
        try:
            config = read_container_config(self._config.pve.etc, self._config.node, vmid)
        except GatewayError:  # nobody needs more of it than what is mounted already
            config = ContainerConfig(LOCK, True, "", "")
        root = self._roots[vmid] = Root(vmid, self._pct.root_of(vmid), config, self._io)
        root.mounts = state["fds"]["mounts"]
        root.mounted.set_result(None)
        root.keeper = self._io.create_task(self._keep(root))

    def take_again(self, vmid: int) -> Root:
        """For a session that an earlier image of this program began."""
        root = self._roots[vmid]
        root.users += 1
        return root

    # ---- what a killed supervisor has left

    def recover(self) -> None:
        """Takes off the locks of ours whose mounts are gone."""
        left = [vmid for vmid in self._marks.all() if vmid not in self._roots]
        if left:
            self._recovering = self._io.create_task(self._recover(left))

    async def _recover(self, vmids: list[int]) -> None:
        try:
            for vmid in vmids:
                await self._take_lock_off(vmid, None)
        finally:
            self._recovering = None

    # ---- one root

    def _begin(self, vmid: int, config: ContainerConfig) -> Root:
        root = self._roots[vmid] = Root(vmid, self._pct.root_of(vmid), config, self._io)
        root.mounted.add_done_callback(lambda done: done.exception())  # retrieved, whoever still waits
        root.keeper = self._io.create_task(self._mount_and_keep(root))
        return root

    async def _mount_and_keep(self, root: Root) -> None:
        try:
            await self._mount(root)
        except BaseException as exc:
            root.leave()
            await self._unmount(root)
            root.mounted.set_exception(exc if isinstance(exc, GatewayError) else _failed(root.vmid, str(exc)))
            return
        root.mounted.set_result(None)
        await self._keep(root)

    async def _mount(self, root: Root) -> None:
        vmid = root.vmid
        if not self._marks.has(vmid):
            await asyncio.to_thread(self._marks.add, vmid)
        said = await self._pct.mount(vmid)
        root.mounts = said.mounts if said.mounts is not None else -1
        if said.exit_code != 0:
            raise _explain(said, vmid)
        if self._guests.seems_to_run(vmid):
            raise GuestFilesFailed(f"guest {vmid} has been started meanwhile; send the request again", vmid=vmid)

    async def _keep(self, root: Root) -> None:
        """Until nobody needs it, or the container runs: the lock stops no start (PVE: lxc-pve-prestart-hook)."""
        try:
            await self._until_unneeded(root)
        except Exception:
            log.exception("the files of guest %d are not looked after any more", root.vmid)
            self.on_started(root.vmid)
        root.leave()
        await self._unmount(root)

    async def _until_unneeded(self, root: Root) -> None:
        idle_since: float | None = None
        while root.users or not (root.wanted_off or root.in_the_way_of):
            if self._guests.seems_to_run(root.vmid):
                root.wanted_off = True
                self.on_started(root.vmid)
            idle_since = None if root.users else idle_since or self._io.time()
            if idle_since is not None and self._io.time() - idle_since >= LINGER_SECONDS:
                return
            root.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await root.changed.wait()

    async def _unmount(self, root: Root) -> None:
        try:
            await self._take_lock_off(root.vmid, root.mounts if root.mounts >= 0 else None)
        finally:
            if root.mounts >= 0:
                os.close(root.mounts)
            del self._roots[root.vmid]

    async def _take_lock_off(self, vmid: int, mounts: int | None) -> None:
        """Unmounts what is mounted, and takes a lock off that is ours. Never raises for what pct refuses."""
        try:
            if self._lock_is_anothers(vmid):
                self._marks.remove(vmid)
                return
            said = await self._pct.unmount(vmid, mounts)
            if said.mounts is not None:
                os.close(said.mounts)
            if said.exit_code != 0 and mounts is not None:
                log.warning("pct unmount %d: exit code %s: %s", vmid, said.exit_code, said.words[:_MAX_WORDS])
                await self._take_lock_off(vmid, None)  # what it could not unmount goes with the namespace
            elif said.exit_code != 0:
                log.error("the lock of guest %d stays: pct unmount: %s", vmid, said.words[:_MAX_WORDS])
            else:
                self._marks.remove(vmid)
        except (GatewayError, OSError) as exc:
            log.error("the lock of guest %d stays: %s", vmid, exc)

    def _lock_is_anothers(self, vmid: int) -> bool:
        """Whether it has no lock `mounted`, or one of somebody's whose own mount is there to be seen."""
        try:
            config = read_container_config(self._config.pve.etc, self._config.node, vmid)
        except GuestNotFound:
            return True
        except GuestUnsupported:
            return False
        return config.lock != LOCK or self._pct.is_mounted_on_node(vmid)


def _explain(said: PctSaid, vmid: int) -> GatewayError:
    """Why it could not be mounted, by PVE's words (PVE::AbstractConfig, check_lock; PVE::Tools, lock_file_full)."""
    words = said.words[-_MAX_WORDS:]
    if said.exit_code is None:
        return PveFailed(
            f"`pct mount {vmid}` did not end within {SECONDS:.0f} s; look at the node's storage", vmid=vmid
        )
    if "is locked (" in words or "can't lock file" in words:
        lock = words.partition("is locked (")[2].partition(")")[0]
        return GuestLocked(
            f"guest {vmid} is stopped and locked: its file system cannot be mounted; try again",
            vmid=vmid,
            **({"lock": lock} if lock else {}),
        )
    return _failed(vmid, words or f"pct ended with exit code {said.exit_code}")


def _failed(vmid: int, words: str) -> PveFailed:
    return PveFailed(f"the file system of guest {vmid} cannot be mounted: {words}", vmid=vmid)
