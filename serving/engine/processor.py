"""Pictures that lie on the model's grid already are only cut into patches.

vLLM has one thread for the pictures of all requests, and there transformers' processor takes most of a picture's time: it
tokenizes a text of as many placeholders as the picture has tokens, which nobody reads, checks its arguments, and copies pixels
one by one. Of a 1024×768 picture it takes 6 ms of a Xeon's core, and cutting half of one. Decoding and resizing have been done
before, on threads of their own (images/workshop.py).
"""

import inspect
import logging
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from serving.images.decode import Pixels

logger = logging.getLogger("vllm.onecard")


class Patches(NamedTuple):
    """How the vision encoder takes a picture: squares of `size` pixels, `merged` by `merged` of which are one token, each given
    `frames` times, since a video has as many frames in one patch."""

    size: int
    merged: int
    frames: int


def cut(pixels: Pixels, patches: Patches) -> Pixels:
    """From (3, height, width) to (patches, 3 × frames × size × size), in the order of `patchify` in transformers'
    image_processing_qwen2_vl.py: token by token, and within a token row by row."""
    size, merged, frames = patches
    _, height, width = pixels.shape
    # A row of a patch is one item, which is copied as a whole.
    rows = np.ascontiguousarray(pixels).view(np.dtype((np.void, size)))
    rows = rows.reshape(3, height // size // merged, merged, size, width // size // merged, merged)
    ordered = rows.transpose(1, 4, 2, 5, 0, 3)
    whole = np.empty((*ordered.shape[:5], frames, size), rows.dtype)
    whole[:] = ordered[..., None, :]
    return whole.view(np.uint8).reshape(height // size * (width // size), -1)


def cut_pictures_ourselves(architecture: str) -> None:
    """In this process, for that model, from now on. A model whose processor is not as expected keeps it."""
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.multimodal import MULTIMODAL_REGISTRY

    if (known := getattr(ModelRegistry, "models", {}).get(architecture)) is None:
        return
    model = known.load_model_cls()
    factories = vars(model).get("_processor_factory")
    theirs = getattr(factories, "processor", None)
    if not (isinstance(theirs, type) and _takes(theirs, "_apply_hf_processor_main", "mm_items", "hf_kwargs")):
        logger.debug("the processor of %s is another than expected, and keeps all of its work", architecture)
        return
    del model._processor_factory  # vLLM warns where one takes the place of another
    ours = _processor(theirs)
    MULTIMODAL_REGISTRY.register_processor(ours, info=factories.info, dummy_inputs=factories.dummy_inputs)(model)


def _takes(owner: type, method: str, *arguments: str) -> bool:
    found = getattr(owner, method, None)
    return found is not None and list(inspect.signature(found).parameters) == ["self", *arguments]


def _processor(theirs: Any) -> type:
    class OnGridProcessor(theirs):  # type: ignore[misc]
        """vLLM's, but for requests that have nothing but pictures on the grid."""

        @cached_property
        def _patches(self) -> Patches | None:
            """None where the model wants more of a picture than its bytes in another order."""
            processor = self.info.get_image_processor()
            as_bytes = getattr(self.info.ctx.get_mm_config(), "mm_device_do_normalize", False)
            if not (as_bytes and type(processor).__name__.startswith("Qwen2VLImageProcessor")):
                return None
            return Patches(processor.patch_size, processor.merge_size, processor.temporal_patch_size)

        def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Any) -> Any:
            counts = {kind: count for kind, count in mm_items.get_all_counts().items() if count}
            if hf_kwargs or set(counts) != {"image"} or self._patches is None:
                return super()._apply_hf_processor_main(mm_items, hf_kwargs)
            pictures = [mm_items["image"].get(number) for number in range(counts["image"])]
            side = self._patches.size * self._patches.merged
            if not all(_on_grid(picture, side) for picture in pictures):
                return super()._apply_hf_processor_main(mm_items, hf_kwargs)
            return _features(pictures, self._patches)

    return OnGridProcessor


def _on_grid(picture: Any, side: int) -> bool:
    """Whether it comes from our connector, which fits it to the grid (`images/fit.py`) unless the processor has to."""
    if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3):
        return False
    colours, height, width = picture.shape
    return bool(colours == 3 and height % side == width % side == 0)


def _features(pictures: list[Pixels], patches: Patches) -> Any:
    import torch
    from transformers.feature_extraction_utils import BatchFeature

    together = [cut(picture, patches) for picture in pictures]
    grids = [[1, picture.shape[1] // patches.size, picture.shape[2] // patches.size] for picture in pictures]
    return BatchFeature(
        {
            "pixel_values": torch.from_numpy(together[0] if len(together) == 1 else np.concatenate(together)),
            "image_grid_thw": torch.tensor(grids),
        }
    )
