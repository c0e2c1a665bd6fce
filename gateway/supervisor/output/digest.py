"""A SHA-256 whose state survives a re-exec of the supervisor.

hashlib cannot give its state away, so this drives libcrypto's SHA256_CTX, a plain struct, which is already
loaded for TLS. Where libcrypto is not to be had, hashing goes on with hashlib and a re-exec loses the hash.
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import hashlib
from typing import Any

# openssl/sha.h: SHA_LONG h[8]; SHA_LONG Nl, Nh; SHA_LONG data[16]; unsigned int num, md_len;
_CTX_BYTES = 4 * (8 + 2 + 16 + 2)


def _libcrypto() -> Any:
    name = ctypes.util.find_library("crypto") if not _try("libcrypto.so.3") else "libcrypto.so.3"
    library = _try(name) if name else None
    return library if library is not None and hasattr(library, "SHA256_Update") else None


def _try(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


class Sha256:
    """The running SHA-256 of one output stream."""

    _library: Any = _libcrypto()

    def __init__(self, state: str | None = None) -> None:
        self._ctx: Any = None
        self._fallback: Any = None
        if self._library is None:
            self._fallback = hashlib.sha256()
            return
        self._ctx = ctypes.create_string_buffer(_CTX_BYTES)
        if state is None:
            self._library.SHA256_Init(self._ctx)
        else:
            self._ctx.raw = base64.b64decode(state)

    def update(self, data: bytes) -> None:
        if self._ctx is None:
            self._fallback.update(data)
        else:
            self._library.SHA256_Update(self._ctx, data, ctypes.c_size_t(len(data)))

    def hexdigest(self) -> str:
        """The digest of everything so far; updating may go on."""
        if self._ctx is None:
            return str(self._fallback.hexdigest())
        out = ctypes.create_string_buffer(32)
        copy = ctypes.create_string_buffer(self._ctx.raw, _CTX_BYTES)
        self._library.SHA256_Final(out, copy)
        return out.raw.hex()

    def state(self) -> str | None:
        """What another image of this program needs to go on; None when it cannot be had."""
        return base64.b64encode(self._ctx.raw).decode() if self._ctx is not None else None
