"""vLLM's own pipeline of pictures with our cutting in it: the same to the last byte as with transformers' image processor."""

import json
import subprocess
import sys

from serving.hub import resolve_model

# Prints a digest of what the engine would be given, as vLLM has it and then as we do, and how often transformers was asked.
PREPARE = """
import hashlib, json, sys
import numpy as np
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal.processing.context import InputProcessingContext
from vllm.renderers import renderer_from_config
from serving.engine.processor import cut_pictures_ourselves

asked = 0
theirs = InputProcessingContext.call_hf_processor
def call_hf_processor(*given, **named):
    global asked
    asked += 1
    return theirs(*given, **named)
InputProcessingContext.call_hf_processor = call_hf_processor

arguments = {"enforce_eager": True, "max_model_len": 2048, "limit_mm_per_prompt": {"image": 4, "video": 0}}
config = EngineArgs(model=sys.argv[1], **arguments).create_engine_config()
rng = np.random.default_rng(1)
pictures = [rng.integers(0, 256, (3, high, wide), dtype=np.uint8) for high, wide in ((256, 320), (320, 256), (256, 320))]

def prepared():
    global asked
    asked = 0
    renderer = renderer_from_config(config)
    prompt = renderer.tokenizer.encode("<|vision_start|><|image_pad|><|vision_end|>" * len(pictures) + "What is this?")
    found = renderer._process_multimodal(prompt, {"image": pictures}, None, None)
    digest = hashlib.sha256(json.dumps(found["prompt_token_ids"]).encode())
    for item in found["mm_kwargs"]["image"]:
        for name in sorted(item):
            digest.update(f"{name} {item[name].data.dtype} {tuple(item[name].data.shape)}".encode())
            digest.update(item[name].data.numpy().tobytes())
    places = [(place.offset, place.length) for place in found["mm_placeholders"]["image"]]
    return digest.hexdigest(), places, asked

first = prepared()
cut_pictures_ourselves(config.model_config.architecture)
cut_pictures_ourselves("AModelThatVllmDoesNotHave")
print(json.dumps([first, prepared()]))
"""


def test_what_the_engine_is_given_is_the_same_without_transformers_processor() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PREPARE, str(resolve_model("demo").folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    (theirs, their_places, their_calls), (ours, our_places, our_calls) = json.loads(told.stdout.splitlines()[-1])
    assert (ours, our_places) == (theirs, their_places)
    assert (their_calls, our_calls) == (1, 0)
