"""The shape of the demo model, its first weights, and the folder it is exported to.

A `Qwen3VLForConditionalGeneration` like any other, only small: transformers and vLLM load the folder without code of
ours. It does not know how the model is trained (train.py) or what it is asked (questions/).
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

PATCH_SIZE = 16  # pixels
MERGE_SIZE = 2  # patches a side that become one token of the language model
POSITIONS_PER_SIDE = 24  # of the learned position grid, resampled to each picture's own grid
MIN_PIXELS, MAX_PIXELS = 65_536, 102_400  # 64 to 100 tokens a picture
MAX_PARAMETERS = 9_900_000


def config_for(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The widths are those that fit 9.9 M parameters with heads of 64, which every attention kernel takes."""
    token = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        dtype="bfloat16",
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "dtype": "bfloat16",
        },
        vision_config={
            "depth": 9,
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_heads": 3,
            "out_hidden_size": 256,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": 2,
            "num_position_embeddings": POSITIONS_PER_SIDE**2,
            "deepstack_visual_indexes": [4],
            "dtype": "bfloat16",
        },
    )


def fresh_model(config: Qwen3VLConfig, seed: int) -> Qwen3VLForConditionalGeneration:
    """Random weights in float32: variance 1 / fan-in, and what is added to the residual stream scaled down by depth."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d) and name != "lm_head":
            std = 1 / math.sqrt(module.weight[0].numel())
            if name.endswith(("attn.proj", "self_attn.o_proj", "mlp.linear_fc2", "mlp.down_proj")):
                depth = config.vision_config.depth if "visual" in name else config.text_config.num_hidden_layers
                std /= math.sqrt(2 * depth)
            nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
    return model


def export(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (bf16), configuration, tokenizer, processor and chat template as a Hub checkpoint has them."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"the model has {parameters:,} parameters; {MAX_PARAMETERS:,} are allowed")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}
    served = Qwen3VLForConditionalGeneration._from_config(model.config, dtype=torch.bfloat16)
    served.load_state_dict(weights)
    served.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
    tokenizer.save_pretrained(folder)
    for name, content in _processor_files(tokenizer).items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _processor_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
    shared = {
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    }
    return {
        "preprocessor_config.json": shared | {"image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": shared | {"video_processor_type": "Qwen3VLVideoProcessor"},
        "generation_config.json": {
            "bos_token_id": None,
            "eos_token_id": [tokenizer.eos_token_id, tokenizer.pad_token_id],
            "pad_token_id": tokenizer.pad_token_id,
            "do_sample": False,
            # vLLM samples at 1.0 where a request gives no temperature, unless the checkpoint says otherwise.
            "temperature": 0.0,
        },
    }
