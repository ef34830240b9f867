"""One point of `benchmarks.memory`, in a process of its own: starts vLLM's engine as described by a JSON object, gives it
the most that it allows, and prints what each part of the memory took. The command is `benchmarks/memory.py`.
"""

import json
import random
import sys
import time
from typing import Any

from benchmarks.ending import in_order_by_sigterm
from benchmarks.say import say

READY = "READY, and waits for a line"
_TOKEN_WORDS = ("one", "two", "red", "blue", "left", "right", "star", "photo")
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_ANSWER_TOKENS = 64


def main() -> None:
    """Reads the point from the command line, says `READY` once the engine is, waits for a line on stdin, and prints one line
    that begins with `POINT `."""
    import torch
    import vllm

    in_order_by_sigterm()  # vLLM ends its engine's process on the way out
    point: dict[str, Any] = json.loads(sys.argv[1])
    began = time.monotonic()
    engine = vllm.LLM(
        **point["engine_args"],
        load_format="dummy",
        worker_extension_cls="serving.engine.worker_memory.WorkerMemory",
        disable_log_stats=True,
    )
    ready = time.monotonic()
    say(READY)
    sys.stdin.readline()
    if point["expandable_segments"] and not engine.collective_rpc("onecard_expand_segments")[0]:
        raise RuntimeError("the allocator's segments cannot grow here")
    started = engine.collective_rpc("onecard_memory")[0]
    transients = engine.collective_rpc("onecard_transients")[0]
    _load(engine, point)
    loaded = engine.collective_rpc("onecard_memory")[0]
    times = {"start_s": round(ready - began, 1), "load_s": round(time.monotonic() - ready, 1)}
    about = {"vllm": vllm.__version__, "torch": torch.__version__}
    say("POINT " + json.dumps({"started": started, "transients": transients, "loaded": loaded} | times | about))


def _load(engine: Any, point: dict[str, Any]) -> None:
    """The largest pictures and the most of them in a request, all distinct, mixed with long texts, all at once."""
    from vllm import SamplingParams

    side = int(point["max_image_pixels"] ** 0.5) // 32 * 32
    longest = point["engine_args"]["max_model_len"] - _ANSWER_TOKENS - 16
    rng = random.Random(0)
    prompts: list[Any] = []
    for number in range(point["requests"]):
        kind = number // 8 % 4
        if kind == 3:
            prompts.append({"prompt": " ".join(rng.choices(_TOKEN_WORDS, k=longest - 64))})
            continue
        # One largest picture; as many as are allowed; and small ones, which fill the encoder's budget to the brim.
        count = 1 if kind == 0 else point["images_per_request"]
        pictures = [_picture(256 if kind == 1 else side, rng.random()) for _ in range(count)]
        prompts.append({"prompt": _IMAGE * count + "What is this?", "multi_modal_data": {"image": pictures}})
    sampling = [
        SamplingParams(
            max_tokens=_ANSWER_TOKENS,
            ignore_eos=True,
            temperature=0.7,
            top_p=0.8,
            top_k=20,
            logprobs=20 if i < 4 else None,
        )
        for i in range(len(prompts))
    ]
    engine.generate(prompts, sampling, use_tqdm=False)


def _picture(side: int, phase: float) -> Any:
    import numpy as np
    from PIL import Image

    ramp = np.linspace(0, 6.28, side, dtype=np.float32)
    wave = np.sin(ramp * (1 + phase) + phase * 100)[:, None] * np.cos(ramp * (2 - phase))[None, :]
    plane = ((wave + 1) * 127).astype(np.uint8)
    return Image.fromarray(np.stack([plane, plane[::-1], plane.T], axis=-1))


if __name__ == "__main__":
    main()
