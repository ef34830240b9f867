"""What does a picture cost before the GPU sees it, and on which thread? `python -m benchmarks.image_path`.

Two ways side by side, in one run: vLLM's own connector and processor, and ours. What the connector does runs on several
threads; all that follows, up to what the engine is sent, has the one thread that vLLM has for it, which bounds the pictures per
second of a server, whatever its GPU.

No server: vLLM 0.32's own functions are called, with normalizing left to the device (its default for Qwen3-VL), one torch
thread (its default), and the pixel budget of the profile `rtx3060`, for the demo model, whose pictures are Qwen3-VL's.
"""

import argparse
import base64
import io
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from serving.demo.evaluate import served_by
from serving.engine.processor import cut_pictures_ourselves
from serving.hub import resolve_model
from serving.images.data_url import read_data_url
from serving.images.decode import decode
from serving.images.fit import detail, fit, resize
from serving.images.grid import Grid
from serving.images.header import read_header

GRID = Grid(32, min_pixels=65_536, max_pixels=1_228_800)
CASES = (
    ("640×480 JPEG", 640, 480, "JPEG"),
    ("1024×768 JPEG", 1024, 768, "JPEG"),
    ("1024×768 PNG", 1024, 768, "PNG"),
    ("4032×3024 JPEG", 4032, 3024, "JPEG"),
    ("4032×3024 PNG", 4032, 3024, "PNG"),
)
_RESULTS = Path(__file__).parent / "results"

Steps = dict[str, float]
# From what the connector hands over to what the engine is sent.
Prepare = Callable[[Any], Any]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_path", description="ms a picture, step by step.")
    parser.add_argument("--repeats", type=int, default=9, help="of which the fastest counts (default 9)")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    theirs, ours = preparing()
    results = []
    for name, width, height, kind in CASES:
        sys.stderr.write(f"{name} …\n")
        url = picture(width, height, kind)
        sides = {"vllm": before(url, theirs, options.repeats), "onecard": after(url, ours, options.repeats)}
        results.append({"picture": name, "file_kb": len(url) * 3 // 4000, **sides})
    sys.stdout.write(table(results) + "\n")
    result = {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.image_path", *sys.argv[1:]]),
        "vllm": served_by(),
        "machine": f"{_cpu()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "unit": "ms a picture, the fastest of the repeats",
        "max_pixels": GRID.max_pixels,
        "pictures": results,
    }
    _RESULTS.mkdir(exist_ok=True)
    file = _RESULTS / "image-path.json"
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"written to {file}\n")


def preparing() -> tuple[Prepare, Prepare]:
    """What vLLM's one thread does for a picture, as vLLM has it and with our cutting in it."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.renderers import renderer_from_config

    size = {"shortest_edge": GRID.min_pixels, "longest_edge": GRID.max_pixels}
    config = EngineArgs(
        model=str(resolve_model("demo").folder),
        enforce_eager=True,
        limit_mm_per_prompt={"image": 4, "video": 0},
        mm_processor_kwargs={"size": size},
    ).create_engine_config()

    def prepare() -> Prepare:
        renderer = renderer_from_config(config)
        prompt = renderer.tokenizer.encode("<|vision_start|><|image_pad|><|vision_end|>What is in the picture?")
        return lambda media: renderer._process_multimodal(prompt, {"image": [media]}, None, None)

    theirs = prepare()
    cut_pictures_ourselves(config.model_config.architecture)
    return theirs, prepare()


def before(url: str, prepare: Prepare, repeats: int) -> Steps:
    """vLLM's connector, then its one thread."""
    from vllm.multimodal.media import MediaWithBytes
    from vllm.multimodal.media.image import ImageMediaIO

    reader = ImageMediaIO()
    data = read_data_url(url)
    loaded = reader.load_bytes(data)
    connector = {
        "read": timed(lambda: read_data_url(url), repeats),  # the same function of the same package
        "decode": timed(lambda: reader.load_bytes(data), repeats),
        "resize": 0.0,  # the processor's
    }
    return _with_one_thread(
        connector, prepare, lambda other: MediaWithBytes(loaded.media, data + other, loaded.io_config), repeats
    )


def after(url: str, prepare: Prepare, repeats: int) -> Steps:
    """Our connector, then vLLM's one thread with what ours hands over."""
    from blake3 import blake3
    from vllm.multimodal.media import MediaWithBytes

    data = read_data_url(url)
    header = read_header(data)
    size = GRID.fit(header.width, header.height)
    pixels, orientation = decode(data, header, at_least=detail(*size))
    connector = {
        "read": timed(lambda: (blake3(read_data_url(url)).digest(), read_header(data)), repeats),
        "decode": timed(lambda: decode(data, header, at_least=detail(*size)), repeats),
        "resize": timed(lambda: resize(pixels, size, orientation), repeats),
    }
    fitted, digest = fit(data, header, GRID), blake3(data).digest()
    return _with_one_thread(connector, prepare, lambda other: MediaWithBytes(fitted, digest + other), repeats)


def _with_one_thread(connector: Steps, prepare: Prepare, hand_over: Callable[[bytes], Any], repeats: int) -> Steps:
    """The connector's steps, and what vLLM's thread takes for pictures that it has not seen: each with other bytes."""
    fresh = (hand_over(number.to_bytes(8)) for number in itertools.count())
    steps = connector | {"one thread": timed(lambda: prepare(next(fresh)), repeats)}
    return {name: round(value, 2) for name, value in steps.items()}


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Milliseconds of the fastest, after one that is not counted: what else runs on the machine is not the question."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds) * 1000


def picture(width: int, height: int, kind: str) -> str:
    """A data URL of a picture with structure at every scale and grain, as a photograph has."""
    rng = np.random.default_rng(1)
    image = rng.normal(128, 4, (height, width, 3)).astype(np.float32)
    for cells in (4, 16, 64, 256):
        noise = rng.normal(0, 160 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    buffer = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def table(results: list[dict[str, Any]]) -> str:
    """One row a picture and way."""
    columns = ("read", "decode", "resize", "one thread")
    lines = [f"{'ms a picture':<17}{'':<9}" + "".join(f"{column:>12}" for column in columns)]
    for each in results:
        for way in ("vllm", "onecard"):
            lines.append(
                f"{each['picture']:<17}{way:<9}" + "".join(f"{each[way][column]:>12.2f}" for column in columns)
            )
    return "\n".join(lines)


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()
