"""The size at which the model sees a picture: Qwen's `smart_resize`, so that vLLM's processor finds nothing to do."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """`side`: pixels along one token, patch_size × merge_size (32 for Qwen3-VL, 28 for Qwen2-VL).
    `min_pixels`, `max_pixels`: the processor's `size.shortest_edge` and `longest_edge`."""

    side: int
    min_pixels: int
    max_pixels: int

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The reference processor's width and height for a picture of that size: multiples of `side`, about as many
        pixels as before but within the bounds, about the same shape.

        The arithmetic is that of `smart_resize` in transformers' image_processing_qwen2_vl.py, to the last rounding;
        what it refuses is refused before (`limits.check_size`).
        """
        side = self.side
        fitted_height, fitted_width = round(height / side) * side, round(width / side) * side
        if fitted_height * fitted_width > self.max_pixels:
            beta = math.sqrt((height * width) / self.max_pixels)
            fitted_height = max(side, math.floor(height / beta / side) * side)
            fitted_width = max(side, math.floor(width / beta / side) * side)
        elif fitted_height * fitted_width < self.min_pixels:
            beta = math.sqrt(self.min_pixels / (height * width))
            fitted_height = math.ceil(height * beta / side) * side
            fitted_width = math.ceil(width * beta / side) * side
        return fitted_width, fitted_height

    def tokens(self, width: int, height: int) -> int:
        """How many tokens a picture of that size becomes."""
        fitted_width, fitted_height = self.fit(width, height)
        return fitted_width * fitted_height // self.side**2

    def leaves(self, width: int, height: int) -> bool:
        """Whether the processor leaves a picture of that size as it is. It does not always leave what it has made
        itself: a long and narrow one can come out beyond its own bounds."""
        return self.fit(width, height) == (width, height)
