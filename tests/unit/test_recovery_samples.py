"""The ring of samples: bounded, readable by others, not hurt by a crash."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.recovery.checks import Sample
from harness.recovery.facts import CheckResult
from harness.recovery.samples import MIN_SLOTS, SLOT_BYTES, SampleRing, latest_samples, read_samples, samples_path


def made(number: int, check: str = "a", detail: str = "") -> Sample:
    return Sample(
        check=check, target="api", result=CheckResult.PASS, detail=detail, started_us=number, ended_us=number, took_ms=1.0,
        evidence={"body": detail, "status": 200},
    )  # fmt: skip


def test_others_read_what_was_written_last(tmp_path: Path) -> None:
    """Readers see samples in order, by check, target, time and number, also after the writer has begun anew."""
    ring = SampleRing(samples_path(tmp_path))
    for number in range(5):
        ring.add(made(number, check="ab"[number % 2]))
    ring.close()
    again = SampleRing(samples_path(tmp_path))
    again.add(made(5, check="b"))
    again.close()

    assert [sample.ended_us for sample in read_samples(tmp_path)] == [0, 1, 2, 3, 4, 5]
    assert [sample.ended_us for sample in read_samples(tmp_path, check="b", since_us=2)] == [3, 5]
    assert [sample.ended_us for sample in read_samples(tmp_path, limit=2)] == [4, 5]
    assert {name: sample.ended_us for name, sample in latest_samples(tmp_path).items()} == {"a": 4, "b": 5}
    assert read_samples(tmp_path / "nowhere") == []


def test_the_ring_does_not_grow(tmp_path: Path) -> None:
    """The oldest samples give way, and the file keeps its size."""
    ring = SampleRing(samples_path(tmp_path))
    for number in range(MIN_SLOTS + 100):
        ring.add(made(number))
    ring.close()

    kept = read_samples(tmp_path, limit=10 * MIN_SLOTS)
    assert samples_path(tmp_path).stat().st_size == MIN_SLOTS * SLOT_BYTES
    assert [kept[0].ended_us, kept[-1].ended_us, len(kept)] == [100, MIN_SLOTS + 99, MIN_SLOTS]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.text(max_size=1500))
def test_whatever_a_service_says_fits_a_slot(tmp_path: Path, detail: str) -> None:
    """Long or odd details are cut, never the record."""
    ring = SampleRing(samples_path(tmp_path))
    ring.add(made(1, detail=detail))
    ring.close()

    assert read_samples(tmp_path)[-1].ended_us == 1


def test_a_torn_slot_is_left_out(tmp_path: Path) -> None:
    """A crash in the middle of a write costs that sample and no other."""
    ring = SampleRing(samples_path(tmp_path))
    for number in range(3):
        ring.add(made(number))
    ring.close()
    path = samples_path(tmp_path)
    data = bytearray(path.read_bytes())
    data[2 * SLOT_BYTES + 40] ^= 0xFF
    path.write_bytes(bytes(data))

    assert [sample.ended_us for sample in read_samples(tmp_path)] == [0, 2]
