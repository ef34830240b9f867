"""What a download says of itself: bytes, rate and time left, rewritten on a terminal and rare in a log."""

import io
import sys
import time

import pytest

from serving.hub.meter import Meter, duration


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one entry is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("stderr", "lines"), [(_Terminal(), 40), (io.StringIO(), 2)])
def test_a_line_says_how_far_it_is_and_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], stderr: io.StringIO, lines: int
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    with Meter("someone/model", total=4_000_000_000, have=1_000_000_000) as meter:
        for _ in range(160):
            clock[0] += 0.125
            meter.add(6_250_000)
        said = stderr.getvalue()
    assert said.startswith("someone/model: 4.00 GB, 1.00 GB of them here.\n")
    assert said.count("left") == lines
    assert "2.00 GB of 4.00 GB (50%), 50.0 MB/s, 40 s left" in said.splitlines()[-1].rpartition("\r")[2]
    assert "1.00 GB received in 20 s; every checksum is right." in stderr.getvalue()


def test_a_download_that_fails_does_not_say_that_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    with pytest.raises(ConnectionError), Meter("someone/model", 10, 0):
        raise ConnectionError
    assert "right" not in stderr.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3700, "1 h 1 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
