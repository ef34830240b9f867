"""`python -m serving.quantize.worker JOB`: quantizes the language model with llm-compressor, in the environment that has it.

Everything else (checks, calibration pictures, the head, the card, the proof) is done by the caller, in the other environment.
The result is what the library writes, in `WORK/saved`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from serving.quantize.job import Job, say

# A small model is faster on one core: its matrices are not worth waking others for.
_SMALL_HIDDEN_SIZE = 1024


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    job = Job.read(Path(sys.argv[1]))
    hidden = json.loads((Path(job.model) / "config.json").read_text(encoding="utf-8"))["text_config"]["hidden_size"]
    if job.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if hidden < _SMALL_HIDDEN_SIZE:
            os.environ["OMP_NUM_THREADS"] = "1"
    run(job)


def run(job: Job) -> None:
    import torch
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForImageTextToText, GenerationConfig

    from serving.quantize import pipeline, recipe

    work = Path(job.work)
    say("load", 0, 1)
    model = AutoModelForImageTextToText.from_pretrained(job.model, dtype=torch.bfloat16)
    say("load", 1, 1)
    if not torch.accelerator.is_available():
        # llm-compressor 0.14 pins memory for a GPU that is not there, which torch refuses.
        IntermediatesCache.pin_memory = _nothing_to_pin
    batches = _batches(job)
    if batches:
        pipeline.keep_layers_in(work / "layers")
        data = torch.utils.data.DataLoader(batches, batch_size=1, collate_fn=_alone)
        how: dict[str, Any] = {"dataset": data, "pipeline": pipeline.NAME, "sequential_targets": [job.targets]}
    else:
        how = {"pipeline": "datafree"}
    oneshot(model=model, recipe=recipe.modifiers(job.method, job.group), **how)
    say("save", 0, 1)
    # The source's own file is copied later; transformers refuses to write some that it has read.
    model.generation_config = GenerationConfig()
    model.save_pretrained(work / "saved", save_compressed=True)
    say("save", 1, 1, used=len(batches), peak_gpu_mib=_peak_gpu_mib())


def _batches(job: Job) -> list[dict[str, Any]]:
    """Every sample as the model takes it, one a batch: pictures differ in their number of tokens. What the model's processor
    refuses is named and skipped."""
    from transformers import AutoProcessor

    if not job.samples:
        return []
    processor = AutoProcessor.from_pretrained(job.model)
    batches = []
    for number, sample in enumerate(job.samples, 1):
        try:
            batches.append(_batch(processor, job, *sample))
        except ValueError as error:
            say(
                "skipped",
                number,
                len(job.samples),
                name=", ".join(Path(file).name for file in sample[0]),
                reason=str(error),
            )
        say("pictures", number, len(job.samples))
    if not batches:
        raise SystemExit("Error: the model's processor takes none of the calibration pictures")
    return batches


def _batch(processor: Any, job: Job, images: tuple[str, ...], question: str, answer: str) -> dict[str, Any]:
    """Raises ValueError for what the processor refuses, and for more tokens than a calibration holds."""
    from PIL import Image, ImageOps

    pictures = [
        _bounded(ImageOps.exif_transpose(Image.open(file)).convert("RGB"), job.largest_pixels) for file in images
    ]
    content = [*({"type": "image", "image": each} for each in pictures), {"type": "text", "text": question}]
    turns = [{"role": "user", "content": content}]
    if answer:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    inputs = processor.apply_chat_template(
        turns, add_generation_prompt=not answer, tokenize=True, return_dict=True, return_tensors="pt"
    )
    if (tokens := inputs["input_ids"].shape[1]) > job.longest_tokens:
        raise ValueError(f"{tokens:,} tokens, more than {job.longest_tokens:,}")
    return dict(inputs)


def _bounded(image: Any, largest_pixels: int) -> Any:
    factor = (largest_pixels / (image.width * image.height)) ** 0.5
    return (
        image if factor >= 1 else image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))
    )


def _alone(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return batch[0]


def _nothing_to_pin(*_args: object, **_kwargs: object) -> None:
    return None


def _peak_gpu_mib() -> int | None:
    import torch

    return torch.cuda.max_memory_reserved() // 2**20 if torch.cuda.is_available() else None


if __name__ == "__main__":
    main()
