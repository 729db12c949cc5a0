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
from harness.ledger.store import Head, Problem, Store, Write

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
        except (OSError, ValueError, TypeError) as error:
            raise LedgerError(f"{path}: not a private key in PEM form") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise LedgerError(f"{path}: not an Ed25519 key")
        return key
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return key if _publish(path, pem) else signing_key(path)  # another process may have been faster


async def write_seal(store: Store, directory: Path, key: Ed25519PrivateKey) -> Path:
    """Write the next seal into a directory and record it. Copy the file to where nobody can change it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    heads = [head for head in await store.heads() if head.stream != STREAM]
    while True:  # until no other sealer takes the same number
        paths = [path for path in directory.glob("*.json") if path.stem.isdecimal()]
        last = max(paths, key=_number_of, default=None)
        previous = hashlib.sha256(_load(last).statement.encode()).hexdigest() if last else None
        statement = _statement(store, heads, number=_number_of(last) + 1 if last else 1, previous=previous, key=key)
        text = msgspec.json.encode(statement, order="sorted").decode()
        content = msgspec.json.encode(Seal(statement=text, signature=key.sign(text.encode()).hex()))
        path = directory / f"{statement.number:06}.json"
        if _publish(path, content):
            break
    digest = hashlib.sha256(text.encode()).hexdigest()
    sealed = Sealed(number=statement.number, digest=digest, events=statement.events)
    await store.append(Write(STREAM, (Draft(type="ledger.sealed", payload=sealed),)))
    return path


def _number_of(path: Path) -> int:
    return int(path.stem)


def _publish(path: Path, content: bytes) -> bool:
    """Make a file, whole and for good, for its owner only; False if there is one of this name already."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.new")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            unfinished.rename(path)
        return True
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _statement(store: Store, heads: Sequence[Head], *, number: int, previous: str | None, key: Ed25519PrivateKey) -> Statement:
    return Statement(
        version=1,
        number=number,
        created=iso(store.clock.now_us()),
        location=store.location,
        events=sum(head.seq for head in heads),
        streams={head.stream: SealedHead(head.seq, head.hash.hex()) for head in heads},
        previous=previous,
        public_key=key.public_key().public_bytes_raw().hex(),
    )


def _load(path: Path) -> Seal:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Seal)
    except OSError as error:
        raise LedgerError(f"{path}: the seal cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
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
