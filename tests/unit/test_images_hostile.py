"""Pictures made to do harm, and good ones mutilated, decoded in a process of their own: each is a picture or is refused,
and none takes more memory than the largest honest picture."""

import multiprocessing
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mutilated import mutilated
from tests.unit.hostile import HOSTILE, outcome, seeds

# What decoding 64 megapixels takes (serving/images/workshop.py), with the libraries.
MOST_MIB = 1400
# A decoder that is not back by then does not come back.
PATIENCE_S = 120

Decode = Callable[[bytes], str]


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

        def ask(data: bytes) -> str:
            what, peak_mib = pool.submit(outcome, data).result(PATIENCE_S)
            assert peak_mib < MOST_MIB
            return what

        yield ask


@pytest.mark.parametrize("name", HOSTILE)
def test_a_picture_made_to_do_harm_does_none(decode: Decode, name: str) -> None:
    assert decode(HOSTILE[name]()) in ("picture", "refused")


def test_good_files_are_pictures(decode: Decode) -> None:
    assert {decode(data) for data in seeds()} == {"picture"}


# Where, how many bytes are left out there, and what comes instead.
CUTS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 64), st.binary(max_size=16)), min_size=1, max_size=8)


def mended(data: bytes) -> bytes:
    """A PNG with right checksums, as somebody who means it would send it."""
    at, out = 8, data[:8]
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out


def is_harmless(decode: Decode, data: bytes, cuts: list[tuple[float, int, bytes]]) -> None:
    changed = mutilated(data, cuts)
    for each in (changed, mended(changed)) if changed.startswith(b"\x89PNG") else (changed,):
        assert decode(each) in ("picture", "refused")


_WITHOUT_HURRY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.sampled_from(seeds()), cuts=CUTS)
@settings(_WITHOUT_HURRY, max_examples=200)
def test_mutilated_pictures_do_no_harm(decode: Decode, data: bytes, cuts: list[tuple[float, int, bytes]]) -> None:
    is_harmless(decode, data, cuts)


@pytest.mark.long
@pytest.mark.timeout(3600)
@given(data=st.sampled_from(seeds()), cuts=CUTS)
@settings(_WITHOUT_HURRY, max_examples=30_000, derandomize=False)
def test_very_many_mutilated_pictures_do_no_harm(
    decode: Decode, data: bytes, cuts: list[tuple[float, int, bytes]]
) -> None:
    is_harmless(decode, data, cuts)
