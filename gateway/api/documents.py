"""Documents: what is the same for everybody: the API's description, and the pages at /docs that show it.

Each is made once, when it is first asked for, and served from memory; no part of a request names a file.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Document:
    """Bytes of a media type; `headers` go with them."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def etag(self) -> str:
        """Another one for other bytes."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


class Documents:
    """Those that there are, by name; for many threads."""

    def __init__(self, makers: Mapping[str, Callable[[], Document]]) -> None:
        self._makers = makers
        self._made: dict[str, Document] = {}
        self._making = threading.Lock()

    def find(self, name: str) -> Document:
        """The document of that name. Raises KeyError."""
        found = self._made.get(name)
        if found is None:
            with self._making:
                found = self._made.get(name) or self._makers[name]()
                self._made[name] = found
        return found
