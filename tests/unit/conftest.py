"""Property tests are about what holds, never about how fast this machine is; and `make test` tries the same examples each
time, so that it fails because of a change. The long suite looks for new ones. And each worker of xdist has a core of its own:
with more threads than one in each, torch's would wait for each other's, and take several times the CPU for it."""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("onecard", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("onecard")

# Read when torch is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines of the request log."""
    logger = logging.getLogger("onecard.requests")
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Keep()
    logger.addHandler(handler)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield found
    logger.removeHandler(handler)
    logger.level, logger.propagate = before
