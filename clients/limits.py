"""What the server says of itself at `/onecard/status`. Other servers say nothing, and nothing is assumed of them."""

from dataclasses import dataclass
from typing import Any

# Requests at a time to a server that does not say how many it serves at once.
_CONCURRENCY = 8


@dataclass(frozen=True)
class Limits:
    """`max_pixels`: a larger picture would be shrunk by the server anyway. `max_pictures`: in one request.
    `max_frames`: pictures of `max_frame_pixels` that a video may be sent as, none where the server does not speak of them.
    `concurrency`: requests that keep the server busy without filling its queue."""

    max_pixels: int | None = None
    max_pictures: int | None = None
    max_frames: int = 0
    max_frame_pixels: int | None = None
    concurrency: int = _CONCURRENCY


def limits_of(status: object) -> Limits:
    """The limits in the JSON of `/onecard/status`; of anything else, none."""
    if not isinstance(status, dict):
        return Limits()
    limits, capacity = _object(status, "limits"), _object(_object(status, "plan"), "capacity")
    sequences = _positive(capacity, "max_num_seqs")
    at_once = min(sequences, _positive(capacity, "concurrent_images") or sequences) if sequences else 0
    # A few more than are served at once: the next picture is there before a place is free.
    return Limits(
        max_pixels=_positive(limits, "max_image_pixels"),
        max_pictures=_positive(limits, "max_images_per_request"),
        max_frames=_positive(limits, "max_video_frames") or 0,
        max_frame_pixels=_positive(limits, "max_video_frame_pixels"),
        concurrency=at_once + max(1, at_once // 4) if at_once else _CONCURRENCY,
    )


def _object(of: dict[str, Any], key: str) -> dict[str, Any]:
    value = of.get(key)
    return value if isinstance(value, dict) else {}


def _positive(of: dict[str, Any], key: str) -> int | None:
    value = of.get(key)
    return value if isinstance(value, int) and value > 0 else None
