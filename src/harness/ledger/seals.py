"""Seals: signed statements of what a ledger held, to be kept where the ledger's writer cannot change them.

A seal covers every stream's head and length, the number of events, and the seal before. With one at hand,
a cut tail and a wholly rewritten history are found. Needs the extra `seal`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.clock import iso
from harness.errors import LedgerError
from harness.ledger.events import Draft
from harness.ledger.store import Problem, Store, Write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

STREAM = "ledger/seals"
_MISSING = "seals need the package `cryptography`: install agentharness[seal]"


class SealedHead(msgspec.Struct, frozen=True):
    """Where a stream stood."""

    seq: int
    hash: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed."""

    version: int
    number: int
    created: str
    location: str
    events: int
    streams: dict[str, SealedHead]
    previous: str | None  # SHA-256 of the statement before
    public_key: str


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """A statement and its signature (Ed25519, over the statement's exact text)."""

    statement: str
    signature: str


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of `ledger.sealed`."""

    number: int
    digest: str
    events: int


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file, made there (mode 0600) if there is none. Raises `LedgerError`."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise LedgerError(_MISSING) from error
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise LedgerError(f"{path}: not a private key in PEM form") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise LedgerError(f"{path}: not an Ed25519 key")
        return key
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return key


async def write_seal(store: Store, directory: Path, key: Ed25519PrivateKey) -> Path:
    """Write the next seal into a directory and record it. Copy the file to where nobody can change it."""
    paths = sorted(directory.glob("*.json")) if directory.exists() else []
    previous = hashlib.sha256(_load(paths[-1]).statement.encode()).hexdigest() if paths else None
    number = int(paths[-1].stem) + 1 if paths else 1
    heads = [head for head in await store.heads() if head.stream != STREAM]
    statement = Statement(
        version=1,
        number=number,
        created=iso(store.clock.now_us()),
        location=store.location,
        events=sum(head.seq for head in heads),
        streams={head.stream: SealedHead(head.seq, head.hash.hex()) for head in heads},
        previous=previous,
        public_key=key.public_key().public_bytes_raw().hex(),
    )
    text = msgspec.json.encode(statement, order="sorted").decode()
    content = msgspec.json.encode(Seal(statement=text, signature=key.sign(text.encode()).hex()))
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / f"{number:06}.json"
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    digest = hashlib.sha256(text.encode()).hexdigest()
    sealed = Sealed(number=number, digest=digest, events=statement.events)
    await store.append(Write(STREAM, (Draft(type="ledger.sealed", payload=sealed),)))
    return path


def _load(path: Path) -> Seal:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Seal)
    except (OSError, msgspec.DecodeError) as error:
        raise LedgerError(f"{path}: not a seal: {error}") from error


def read_seal(path: Path, *, public_key: str | None = None) -> Statement:
    """A seal's statement, if its signature is good (and by `public_key`, as hex, if given). Raises `LedgerError`."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise LedgerError(_MISSING) from error
    seal = _load(path)
    try:
        statement = msgspec.json.decode(seal.statement, type=Statement)
        signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(statement.public_key))
        signer.verify(bytes.fromhex(seal.signature), seal.statement.encode())
    except (msgspec.DecodeError, ValueError, InvalidSignature) as error:
        raise LedgerError(f"{path}: the seal's signature is not good, so it proves nothing") from error
    if public_key is not None and statement.public_key != public_key:
        raise LedgerError(f"{path}: signed by another key ({statement.public_key})")
    return statement


def compare(
    paths: Sequence[Path],
    *,
    hash_at: Callable[[str, int], bytes | None],
    length: Callable[[str], int],
    stream: str | None = None,
) -> list[Problem]:
    """What a ledger lacks or has otherwise than its seals say."""
    problems: dict[str, Problem] = {}
    for path in paths:
        for name, head in read_seal(path).streams.items():
            if name in problems or (stream is not None and name != stream):
                continue
            found = hash_at(name, head.seq)
            if found is not None and found.hex() == head.hash:
                continue
            if found is not None:
                kind, detail = "rewritten", f"at {head.seq} is another event than seal {path.name} says"
            elif (last := length(name)) == 0:
                kind, detail = "missing", f"seal {path.name} knows {head.seq} events, none is here"
            else:
                kind, detail = "truncated", f"seal {path.name} knows {head.seq} events, {last} are here"
            problems[name] = Problem(stream=name, seq=head.seq, kind=kind, detail=detail)
    return list(problems.values())
