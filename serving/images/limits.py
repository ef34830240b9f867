"""How large a picture may be, decided from its header alone: nothing beyond these bounds is ever decoded."""

from serving.images.errors import ImageError

# A 50-megapixel telephone is served; a 169-megapixel PNG of half a megabyte is not (1.3 GB decoded).
MAX_PIXELS = 64_000_000
MAX_SIDE = 32_768
# The reference processor refuses anything longer: `smart_resize` in transformers' image_processing_qwen2_vl.py.
MAX_RATIO = 200


def check_size(width: int, height: int) -> None:
    """Raises ImageError for a picture without pixels, too large, or too long and narrow for the model."""
    shown = f"The picture is {width}×{height} pixels"
    if width < 1 or height < 1:
        raise ImageError(f"{shown}: there is nothing to see.")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{shown}; this server takes {MAX_PIXELS // 10**6} megapixels at most and {MAX_SIDE:,} along a side. "
            "Send it smaller."
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(f"{shown}: its longer side may be {MAX_RATIO} times the shorter at most. Send a part of it.")
