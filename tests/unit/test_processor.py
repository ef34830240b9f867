"""Pictures cut into patches by ourselves: what transformers' image processor would make of them, and when it is left to it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.engine.processor import Patches, _processor, cut

RNG = np.random.default_rng(7)
THEIRS = object()


def pixels(height: int, width: int) -> Any:
    return RNG.integers(0, 256, (3, height, width), dtype=np.uint8)


@pytest.mark.parametrize(("size", "merged", "frames"), [(16, 2, 2), (14, 2, 2), (8, 1, 1)])
@pytest.mark.parametrize(("high", "wide"), [(1, 1), (3, 2), (24, 32)])
def test_a_picture_is_cut_as_transformers_cuts_it(size: int, merged: int, frames: int, high: int, wide: int) -> None:
    import torch
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    picture = pixels(high * size * merged, wide * size * merged)
    processor = Qwen2VLImageProcessor(patch_size=size, merge_size=merged, temporal_patch_size=frames)
    (expected,), grid_high, grid_wide = processor.patchify(torch.from_numpy(picture)[None], size, merged, frames)
    found = cut(picture, Patches(size, merged, frames))
    assert found.shape == (grid_high * grid_wide, 3 * frames * size**2)
    assert np.array_equal(found, expected.numpy())
    # A picture that was turned or mirrored is no contiguous array.
    turned = picture.transpose(0, 2, 1)[:, ::-1]
    assert np.array_equal(cut(turned, Patches(size, merged, frames)), cut(turned.copy(), Patches(size, merged, frames)))


class Qwen2VLImageProcessorFast:
    patch_size, merge_size, temporal_patch_size = 16, 2, 2


class Theirs:
    """What vLLM's processors have that ours asks for."""

    def __init__(self, image_processor: Any = None, as_bytes: bool = True) -> None:
        config = SimpleNamespace(mm_device_do_normalize=as_bytes)
        self.info = SimpleNamespace(
            get_image_processor=lambda: image_processor or Qwen2VLImageProcessorFast(),
            ctx=SimpleNamespace(get_mm_config=lambda: config),
        )

    def _apply_hf_processor_main(self, *_: Any) -> Any:
        return THEIRS


class Items(dict[str, list[Any]]):
    """vLLM's MultiModalDataItems."""

    def __init__(self, **items: list[Any]) -> None:
        super().__init__(
            {name: SimpleNamespace(get=given.__getitem__, count=len(given)) for name, given in items.items()}
        )  # type: ignore[misc]

    def get_all_counts(self) -> dict[str, int]:
        return {name: given.count for name, given in self.items()}  # type: ignore[misc]


def processed(items: Items, hf_kwargs: Any = None, **theirs: Any) -> Any:
    return _processor(Theirs)(**theirs)._apply_hf_processor_main(items, hf_kwargs or {})  # type: ignore[attr-defined]


def test_pictures_on_the_grid_never_reach_the_image_processor() -> None:
    first, second = pixels(64, 96), pixels(32, 32)
    found = processed(Items(image=[first, second], video=[]))
    assert found["image_grid_thw"].tolist() == [[1, 4, 6], [1, 2, 2]]
    expected = [cut(picture, Patches(16, 2, 2)) for picture in (first, second)]
    assert np.array_equal(found["pixel_values"].numpy(), np.concatenate(expected))
    alone = processed(Items(image=[first]))
    assert np.array_equal(alone["pixel_values"].numpy(), expected[0])


@pytest.mark.parametrize(
    "items",
    [
        Items(image=[Image.new("RGB", (64, 64))]),
        Items(image=[pixels(64, 64), pixels(64, 60)]),
        Items(image=[pixels(64, 64).astype(np.float32)]),
        Items(image=[pixels(64, 64)[0]]),
        Items(image=[pixels(64, 64)], video=[object()]),
        Items(image=[]),
    ],
    ids=["not fitted", "one off the grid", "no bytes", "no colours", "beside a video", "none"],
)
def test_everything_else_is_left_to_it(items: Items) -> None:
    assert processed(items) is THEIRS


def test_a_model_that_wants_more_than_bytes_in_another_order_keeps_its_processor() -> None:
    picture = Items(image=[pixels(64, 64)])
    assert processed(picture, {"size": {}}) is THEIRS
    assert processed(picture, as_bytes=False) is THEIRS
    assert processed(picture, image_processor=SimpleNamespace(patch_size=16)) is THEIRS
