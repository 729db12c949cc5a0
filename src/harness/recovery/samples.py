"""The newest results of all checks, in one file of fixed size that any process of this home may read.

A ring: the newest sample overwrites the oldest. One process writes (the monitor); readers never wait.
A slot that is torn by a crash or by reading at that very instant is left out.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import msgspec

from harness.recovery.checks import Sample

SLOT_BYTES = 512
MIN_SLOTS = 4096
SLOTS_PER_CHECK = 32
_HEAD = struct.Struct(">IIQ")  # length and checksum of the JSON, number of the sample
_ROOM = SLOT_BYTES - _HEAD.size


def samples_path(home: Path) -> Path:
    """Where a home's samples are."""
    return home / "samples.ring"


class SampleRing:
    """The writing end. Costs one write of 512 bytes a sample, without sync."""

    def __init__(self, path: Path, *, checks: int = 1) -> None:
        self._slots = max(MIN_SLOTS, checks * SLOTS_PER_CHECK)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._file).st_size
        if size > self._slots * SLOT_BYTES:
            self._slots = size // SLOT_BYTES
        self._next = max((number for number, _ in _slots(_bytes(path))), default=0) + 1

    def add(self, sample: Sample) -> None:
        """Keep a sample for as long as the ring lasts."""
        data = _encode(sample)
        head = _HEAD.pack(len(data), zlib.crc32(data), self._next)
        os.pwrite(self._file, (head + data).ljust(SLOT_BYTES, b"\0"), self._next % self._slots * SLOT_BYTES)
        self._next += 1

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read_samples(home: Path, *, check: str = "", target: str = "", since_us: int = 0, limit: int = 1000) -> list[Sample]:
    """The newest samples that fit, oldest first; empty if nobody has looked yet."""
    decode = msgspec.json.Decoder(Sample).decode
    found: list[tuple[int, Sample]] = []
    for number, data in _slots(_bytes(samples_path(home))):
        try:
            sample = decode(data)
        except msgspec.DecodeError:
            continue  # written by another version
        if check in ("", sample.check) and target in ("", sample.target) and sample.ended_us >= since_us:
            found.append((number, sample))
    found.sort(key=lambda pair: pair[0])
    return [sample for _, sample in found[-limit:]]


def latest_samples(home: Path) -> dict[str, Sample]:
    """The newest sample of each check."""
    return {sample.check: sample for sample in read_samples(home, limit=1 << 30)}


def _encode(sample: Sample) -> bytes:
    data = msgspec.json.encode(sample)
    if len(data) > _ROOM:
        data = msgspec.json.encode(msgspec.structs.replace(sample, evidence={}, detail=sample.detail[:200]))
    if len(data) > _ROOM:
        data = msgspec.json.encode(msgspec.structs.replace(sample, evidence={}, detail=sample.detail[:30]))
    return data[:_ROOM]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _slots(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for start in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        length, checksum, number = _HEAD.unpack_from(data, start)
        if 0 < length <= _ROOM:
            body = data[start + _HEAD.size : start + _HEAD.size + length]
            if zlib.crc32(body) == checksum:
                found.append((number, body))
    return found
