"""Video as frames that the client has sampled and sends as ordinary pictures: how many of them a conversation holds.

vLLM's own `video_url` stays off. A stranger's video would have to be decoded before anything is known of it, and the whole
clip fit one step's encoder budget; frames as pictures go through the encoder a few at a time. They take twice the tokens:
Qwen3-VL makes one grid of two frames of a video (`temporal_patch_size` in transformers' video_processing_qwen3_vl.py), and
one of each picture.
"""

import math
from dataclasses import dataclass

# What is left to the question, the chat template's words and the answer.
ROOM_TOKENS = 1024
# Before and after each picture.
_MARKS = 2
# The longest side of a frame over its shortest.
_RATIO = 4
# What a plan without video tells of: frames as large as clips for small models are mostly sampled.
EXAMPLE_PIXELS = 512 * 384


@dataclass(frozen=True)
class Frames:
    """Frames of so many pixels at most, of which `pixels_per_token` make a token."""

    pixels: int
    pixels_per_token: int

    @property
    def tokens(self) -> int:
        """Tokens of one frame in the prompt, at most: the processor rounds each side to whole tokens, up or down."""
        exact = self.pixels / self.pixels_per_token
        rounded = exact + (math.sqrt(_RATIO) + 1 / math.sqrt(_RATIO)) * math.sqrt(exact) / 2 + 1 / 4
        return math.ceil(rounded) + _MARKS

    def context(self, count: int) -> int:
        """Tokens of a conversation about so many frames."""
        return count * self.tokens + ROOM_TOKENS

    def most(self, context: int) -> int:
        """How many frames a conversation of so many tokens holds."""
        return max(0, context - ROOM_TOKENS) // self.tokens
