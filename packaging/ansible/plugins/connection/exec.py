"""The connection plugin: Ansible's commands and files by the API of pve-exec-gateway."""

from __future__ import annotations

DOCUMENTATION = r"""
name: exec
short_description: Run tasks in Proxmox VE containers by the API of pve-exec-gateway
author: the authors of pve-exec-gateway
version_added: 0.1.0
description:
  - Runs commands and copies files in LXC containers of Proxmox VE by a REST API with tokens, grants and an audit log.
    No ssh, neither to the node nor to the container, and no root shell.
  - Needs nothing but ansible-core and Python 3.11 here, and in the container what Ansible's modules need, which is
    Python; M(ansible.builtin.raw) needs a shell alone.
extends_documentation_fragment:
  - pve_exec.gateway.gateway
options:
  vmid:
    description: The container's number. Without it O(remote_addr) is taken for it.
    type: int
    vars:
      - name: proxmox_vmid
      - name: ansible_pve_exec_vmid
  remote_addr:
    description: What the host is called; its number, where O(vmid) is not given.
    type: str
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
  remote_user:
    description: Who runs the commands, a user of the container; new files are his.
    type: str
    default: root
    vars:
      - name: ansible_user
      - name: ansible_pve_exec_user
    env:
      - name: ANSIBLE_REMOTE_USER
    ini:
      - section: defaults
        key: remote_user
    cli:
      - name: user
    keyword:
      - name: remote_user
  executable:
    description: The shell in the container.
    type: str
    default: /bin/sh
    vars:
      - name: ansible_executable
    env:
      - name: ANSIBLE_EXECUTABLE
    ini:
      - section: defaults
        key: executable
  command_timeout:
    description:
      - Seconds after which a command is ended, with all its processes.
      - Without it as the gateway is configured, C(exec.timeout), which is an hour; up to C(exec.timeout_max).
    type: float
    vars:
      - name: ansible_pve_exec_command_timeout
    env:
      - name: ANSIBLE_PVE_EXEC_COMMAND_TIMEOUT
    ini:
      - section: pve_exec_gateway
        key: command_timeout
  pipelining:
    description:
      - Modules go to Python's standard input, and no file is made for them. It is on by default, as there is no
        terminal here that C(sudo) could insist on.
    type: boolean
    default: true
    vars:
      - name: ansible_pipelining
    env:
      - name: ANSIBLE_PIPELINING
    ini:
      - section: defaults
        key: pipelining
      - section: connection
        key: pipelining
notes:
  - A command runs once, however often the connection is cut; each has an C(Idempotency-Key).
  - Files are read and written as root of the container, whoever O(remote_user) is.
"""

EXAMPLES = r"""
# inventory.yml
all:
  vars:
    ansible_connection: pve_exec.gateway.exec
    ansible_pve_exec_url: https://pve1:39377
    ansible_pve_exec_ca: pve-root-ca.pem
    ansible_pve_exec_token: "{{ vault_pve_exec_token }}"
  hosts:
    web1:
      ansible_pve_exec_vmid: 101
    "102":
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

from ..plugin_utils.client import Client, Problem
from ..plugin_utils.copying import NotAFile, download, upload
from ..plugin_utils.escalation import Escalation, check_password
from ..plugin_utils.options import make_client
from ..plugin_utils.running import Output, Run
from ..plugin_utils.wire import Failure

display = Display()

_OF_THE_FILE = frozenset(
    {"file_type_refused", "file_refused", "guest_disk_full", "invalid_request", "digest_mismatch", "payload_too_large"}
)
"""Codes of refusals that another path or file might not meet: the task fails, the host is reachable."""


class Connection(ConnectionBase):
    """Commands and files of one guest. What cannot reach the guest is AnsibleConnectionFailure, one line that says
    what to do: Ansible calls the host unreachable then."""

    transport = "pve_exec.gateway.exec"
    has_pipelining = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._client: Client | None = None

    def _connect(self) -> Connection:
        """The connection itself is made by the first request."""
        if self._client is None:
            with self._explained():
                self._client = make_client(self)
            self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Its exit code and all it wrote, byte for byte."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        user = self.get_option("remote_user")
        become = self.become if sudoable and self.become is not None and self.become._id else None
        if become is not None and hasattr(become, "take_user"):
            user, cmd = become.take_user(to_text(cmd)) or (user, cmd)
            become = None
        self._tell(f"EXEC as {user}: {to_text(cmd)}")
        spec: dict[str, Any] = {"command": [self.get_option("executable"), "-c", to_text(cmd)], "user": user}
        if limit := self.get_option("command_timeout"):
            spec["timeout"] = limit
        dialogue = None
        if become is not None and become.expect_prompt():
            dialogue = Escalation(become, self.get_option("timeout"))
        with self._explained():
            output = Run(self._use(), self._vmid(), spec, in_data, dialogue).finish()
        if become is not None:
            check_password(become, output)
        return _as_result(output)

    def put_file(self, in_path: str, out_path: str) -> None:
        """A new file is `remote_user`'s; one that stands there keeps its owner and mode."""
        super().put_file(in_path, out_path)
        self._tell(f"PUT {in_path} TO {out_path}")
        owner = self.get_option("remote_user")
        with self._explained(out_path), _opened(in_path, "rb") as source:
            upload(self._use(), self._vmid(), source, _raw(out_path), None if owner == "root" else owner)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """What could not be read to its end leaves no file."""
        super().fetch_file(in_path, out_path)
        self._tell(f"FETCH {in_path} TO {out_path}")
        with self._explained(in_path), _opened(out_path, "wb") as target:
            try:
                download(self._use(), self._vmid(), _raw(in_path), target)
            except BaseException:
                os.unlink(_raw(out_path))
                raise

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._connected = False

    def reset(self) -> None:
        """Every command is a login of its own in the guest, with the groups of that moment; so this is about the
        connection to the gateway alone."""
        self._connect()
        self._use().forget()
        self.close()

    def _use(self) -> Client:
        assert self._client is not None
        return self._client

    def _vmid(self) -> int:
        vmid = str(self.get_option("vmid") or self.get_option("remote_addr"))
        if not re.fullmatch(r"[1-9][0-9]{2,8}", vmid):
            raise AnsibleConnectionFailure(f"{vmid!r} is no vmid: set ansible_pve_exec_vmid; `pvex ls` shows them")
        return int(vmid)

    def _tell(self, text: str) -> None:
        display.vvv(text, host=self.get_option("remote_addr"))

    @contextlib.contextmanager
    def _explained(self, path: str | None = None) -> Iterator[None]:
        """Failures as Ansible tells them apart. `path`: the guest's file that it is about."""
        try:
            yield
        except Problem as problem:
            if path is not None and problem.code == "file_not_found":
                raise AnsibleFileNotFound(f"guest {self._vmid()}: {path}: {problem}") from None
            if path is not None and problem.code in _OF_THE_FILE:
                raise AnsibleError(f"guest {self._vmid()}: {path}: {problem}") from None
            raise AnsibleConnectionFailure(str(problem)) from None
        except NotAFile as failure:
            raise AnsibleError(f"guest {self._vmid()}: {path}: {failure}") from None
        except Failure as failure:
            raise AnsibleConnectionFailure(str(failure)) from None


def _raw(path: str) -> bytes:
    """A path's own bytes, which need not be UTF-8."""
    raw: bytes = to_bytes(path, errors="surrogate_or_strict")
    return raw


@contextlib.contextmanager
def _opened(path: str, mode: Literal["rb", "wb"]) -> Iterator[BinaryIO]:
    """A file of this machine. Raises AnsibleFileNotFound and AnsibleError."""
    try:
        descriptor = os.open(_raw(path), os.O_RDONLY if mode == "rb" else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except FileNotFoundError:
        raise AnsibleFileNotFound(f"{path} does not exist on this machine") from None
    except OSError as exc:
        raise AnsibleError(f"cannot open {path} on this machine: {exc.strerror}") from None
    with os.fdopen(descriptor, mode) as file:
        yield file


def _as_result(output: Output) -> tuple[int, bytes, bytes]:
    assert output.exit_code is not None
    return output.exit_code, bytes(output.stdout), bytes(output.stderr)
