"""The gateway that the tests talk to: the three services, their tokens and what they have recorded."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.auth.grants import Grant
from gateway.auth.tokens import TokenStore
from gateway.config import load
from tests.auth.changes import issue_token
from tests.exec.api import Api
from tests.pvesim.services import Services

_NUMBERS = itertools.count(1)


class Gateway:
    """One running gateway. `settings` go over the configuration that the services make, section by section.

    It is an instance with a name of its own: other processes of tests have theirs on the same node.
    The path by which it runs Python is its own: `without_python` takes it from nobody else.
    """

    def __init__(
        self,
        *,
        environment: dict[str, str] | None = None,
        **settings: dict[str, Any],
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pveg-"))
        self.instance = f"p{os.getpid()}n{next(_NUMBERS)}"
        settings["supervisor"] = {**settings.get("supervisor", {}), "instance": self.instance}
        self._python = self.directory / "python"
        self._python.symlink_to(sys.prefix)
        address = settings.get("listen", {}).get("address", "127.0.0.1")
        listener = socket.create_server((address, 0), backlog=2048)
        self.services = Services(
            self.directory,
            python=self._python / Path(sys.executable).relative_to(sys.prefix),
            listener=listener,
            settings=settings,
            environment=environment,
        )
        self.spool = self.services.spool
        self.audit_log = self.services.audit / "audit.log"
        try:
            self.services.start()
            self.token_for_all = self.token("all")
            self.services.wait_ready()
        except BaseException:
            self.close()
            raise

    def token(self, name: str, *, actions: str = "exec:run", guests: str = "100-999") -> str:
        """A new token."""
        return self.services.create_token(name=name, actions=actions, guests=guests)

    def token_for(self, *grants: dict[str, Any], name: str = "granted") -> str:
        """A new token with grants in their JSON form (auth.grants.Grant)."""
        store = self.tokens()
        return issue_token(store, store.prepare(name, [Grant.from_json(grant) for grant in grants], lifetime=None))

    def tokens(self) -> TokenStore:
        """The token store, as the gateway's configuration names it."""
        config = load(self.services.config)
        return TokenStore(config.tokens.directory, config.tokens.key_file)

    def api(self, token: str | None = None, *, host: str = "127.0.0.1") -> Api:
        """The API as `token`, or as one that may run commands in every guest and no more; reached at `host`."""
        return Api(self.services.port, self.services.ca, token or self.token_for_all, host=host)

    def records(self, **fields: Any) -> list[dict[str, Any]]:
        """The audit log's current file, those records whose fields are as given."""
        whole, _, _ = self.audit_log.read_text().rpartition("\n")  # the last line may be half there
        found = [json.loads(line) for line in whole.splitlines()]
        return [record for record in found if fields.items() <= record.items()]

    def log(self, service: str) -> str:
        """What a service has written to stdout and stderr."""
        path = self.services.log(service)
        return path.read_text() if path.exists() else ""

    @contextlib.contextmanager
    def without_python(self) -> Iterator[None]:
        """Nothing stands at the path of this gateway's Python, as while it is being replaced."""
        self._python.unlink()
        try:
            yield
        finally:
            self._python.symlink_to(sys.prefix)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.services.close()
        shutil.rmtree(self.directory, ignore_errors=True)
