"""Profiles: which gateway, which CA, which token; from options, the environment, or a file that only its owner reads.

`--profile` or PVEX_PROFILE name one of the file. Without them GATEWAY_URL, GATEWAY_TOKEN and GATEWAY_CA are taken, as
`.demo/env` sets them; without these the file's current profile. The file is $XDG_CONFIG_HOME/pvex/config.json.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pvex.errors import ClientError, UsageError


@dataclass(frozen=True)
class Profile:
    """One gateway as one token. `ca`: a PEM file, or None for the CAs of this machine."""

    name: str
    url: str
    token: str = field(repr=False)
    ca: Path | None = None


@dataclass
class Store:
    """The profiles of the file, and which one is current."""

    path: Path
    profiles: dict[str, Profile] = field(default_factory=dict)
    current: str | None = None

    def find(self, name: str) -> Profile:
        """Raises UsageError, which names those there are."""
        if name not in self.profiles:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise UsageError(f"there is no profile {name!r}; known: {known}; `pvex login` makes one")
        return self.profiles[name]

    def make_directory(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self) -> None:
        """Replaces the file, 0600, by rename."""
        self.make_directory()
        data = {
            "current": self.current,
            "profiles": {
                name: {"url": one.url, "token": one.token, "ca": str(one.ca) if one.ca else None}
                for name, one in self.profiles.items()
            },
        }
        write_private(self.path, json.dumps(data, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replaces a file by one that only its owner may read."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def config_directory() -> Path:
    """Where pvex keeps what it was told."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(base if base.startswith("/") else Path.home() / ".config") / "pvex"


def load_store() -> Store:
    """The file's profiles; none where there is no file. Raises ClientError when it cannot be used."""
    path = config_directory() / "config.json"
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ClientError(f"{path} holds tokens and others can read it: chmod 600 {path}")
            data = json.load(file)
        profiles = {name: _read(name, one) for name, one in data["profiles"].items()}
        return Store(path, profiles, data.get("current"))
    except FileNotFoundError:
        return Store(path)
    except OSError as exc:
        raise ClientError(f"cannot read {path}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ClientError(f"{path} is no configuration of pvex: remove it, and run `pvex login`") from exc


def choose_profile(name: str | None) -> Profile:
    """The profile to use. Raises UsageError where none is named, set or known."""
    environment = os.environ
    if not name and (url := environment.get("GATEWAY_URL")):
        token = environment.get("GATEWAY_TOKEN")
        if not token:
            raise UsageError("GATEWAY_URL is set, GATEWAY_TOKEN is not: set both, or name a --profile")
        ca = environment.get("GATEWAY_CA")
        return Profile("environment", check_url(url), check_token(token, "GATEWAY_TOKEN"), Path(ca) if ca else None)
    store = load_store()
    chosen = name or store.current
    if chosen is None:
        raise UsageError("no gateway is known: run `pvex login URL`, or set GATEWAY_URL and GATEWAY_TOKEN")
    return store.find(chosen)


def check_name(name: str) -> None:
    """A profile's name is a file's, too. Raises UsageError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"{name!r} is no name for a profile: letters, digits, and . _ - between them")


def check_token(text: str, source: str) -> str:
    """The token without blanks around it. Raises UsageError, which does not show it, for what no header could carry."""
    token = text.strip()
    if not re.fullmatch(r"pveg_[\x21-\x7e]+", token):
        raise UsageError(f"{source} holds no token: one begins with pveg_ and has no blanks in it")
    return token


def check_url(url: str) -> str:
    """The gateway's address without a path. Raises UsageError for what is none; http:// is for this machine."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    local = host in ("localhost", "127.0.0.1", "::1")
    if not host or parts.username or parts.path.strip("/") or parts.query:
        raise UsageError(f"{url!r} is no gateway's address: give https://HOST:39377")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise UsageError(f"{url!r} would send the token unencrypted: give https://")
    where = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{where}:{port or 39377}"


def _read(name: str, data: dict[str, Any]) -> Profile:
    token = check_token(str(data["token"]), f"profile {name}")
    return Profile(name, check_url(data["url"]), token, Path(data["ca"]) if data.get("ca") else None)
