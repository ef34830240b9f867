""" "Before": the model through transformers' own `generate`, as the article that this project began with ran it. No server,
one request at a time. `python -m benchmarks.generate FOLDER` answers its tasks (worker.py).

Weights are read where the folder has them; a folder without any (a shape) gets random ones, as vLLM's `dummy` format does.
"""

import base64
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import worker


class Generate:
    """The model on the GPU where there is one, in 16 bits."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._processor = AutoProcessor.from_pretrained(folder)
        with torch.device(self._device):  # random weights are drawn where they are needed
            if any(folder.glob("*.safetensors")):
                model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
            else:
                model = AutoModelForImageTextToText.from_config(
                    AutoConfig.from_pretrained(folder), dtype=torch.bfloat16
                )
        self._model = model.to(self._device).eval()

    def answer(self, content: list[dict[str, Any]], tokens: int) -> dict[str, float]:
        """One request, from the picture's bytes to the decoded text: its seconds and its numbers of tokens."""
        import torch
        from PIL import Image

        began = time.perf_counter()
        pictures = [
            Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))).convert("RGB")
            for part in content
            if part["type"] == "image_url"
        ]
        parts = [{"type": "image"} if part["type"] == "image_url" else part for part in content]
        text = self._processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        inputs = self._processor(text=[text], images=pictures or None, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            output = self._model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens)
        prompt_tokens = inputs["input_ids"].shape[1]
        self._processor.batch_decode(output[:, prompt_tokens:], skip_special_tokens=True)
        return {
            "seconds": time.perf_counter() - began,
            "tokens": output.shape[1] - prompt_tokens,
            "prompt_tokens": prompt_tokens,
        }


def main() -> Callable[[dict[str, Any]], list[dict[str, float]]]:
    """Loads the model, once, and returns what answers a file of requests."""
    model = Generate(Path(sys.argv[1]))

    def run(task: dict[str, Any]) -> list[dict[str, float]]:
        lines = Path(task["requests"]).read_text(encoding="utf-8").splitlines()
        return [model.answer(json.loads(line)["content"], task["tokens"]) for line in lines]

    return run


if __name__ == "__main__":
    worker.serve(main)
