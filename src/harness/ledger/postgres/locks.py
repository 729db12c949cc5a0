"""Advisory locks: one number for each name that an append looks at. A collision only makes two wait that need not."""

from __future__ import annotations

import functools
from hashlib import blake2b


@functools.lru_cache(maxsize=8192)
def lock_id(schema: str, kind: str, name: str) -> int:
    """The lock of a stream, key, lease, counter or view of one ledger, as a signed number of 64 bits."""
    digest = blake2b(f"{schema}\0{kind}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
