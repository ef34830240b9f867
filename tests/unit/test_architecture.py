"""Shapes and weights: parameters counted against transformers' own classes, and every way a checkpoint names its precision."""

from typing import Any

import pytest

from serving.errors import CheckpointError
from serving.models.architecture import KNOWN, QWEN2_5_VL, QWEN2_VL, QWEN3_5, QWEN3_VL, read_shape
from serving.models.checkpoint import read_checkpoint
from serving.models.files import Folder
from serving.models.tensors import Tensor
from serving.models.weights import measure_weights, quantization_of
from serving.planning.memory import state_bytes_per_sequence
from serving.planning.profile import shape_dir

_TEXT = {
    "num_hidden_layers": 8, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 1000, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_VISION = {"depth": 6, "hidden_size": 128, "intermediate_size": 200, "out_hidden_size": 256, "num_heads": 4}
_CONFIGS: dict[str, dict[str, Any]] = {
    QWEN2_VL: {
        "text_config": _TEXT,
        "vision_config": {"depth": 3, "embed_dim": 128, "hidden_size": 256, "num_heads": 4},
    },
    QWEN2_5_VL: {"text_config": _TEXT, "vision_config": _VISION},
    QWEN3_VL: {
        "text_config": _TEXT | {"head_dim": 64},
        "vision_config": _VISION | {"deepstack_visual_indexes": [1, 3]},
    },
    QWEN3_5: {"text_config": _TEXT | {"head_dim": 64}, "vision_config": _VISION},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", KNOWN)
def test_the_parameters_are_those_of_transformers_own_class(architecture: str, tied: bool) -> None:
    import torch
    import transformers

    kind = getattr(transformers, architecture)
    config = kind.config_class(**_CONFIGS[architecture], tie_word_embeddings=tied)
    with torch.device("meta"):
        model = kind(config)
    shape = read_shape(architecture, config.to_dict())
    assert shape is not None
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    visual = sum(p.numel() for name, p in model.named_parameters() if "visual" in name)
    assert shape.vision.body.total == visual


def test_a_hybrid_keeps_keys_in_a_few_layers_and_a_state_in_the_others() -> None:
    import transformers

    config = transformers.Qwen3_5Config(**_CONFIGS[QWEN3_5]).to_dict()
    shape = read_shape(QWEN3_5, config)
    assert shape is not None
    assert (shape.text.kv_layers, shape.text.layers) == (2, 8)
    # Six layers: 3 inputs of the convolution for 2 × 16 × 128 + 32 × 128 channels at 16 bits, 32 × 128 × 128 at 32 bits.
    assert state_bytes_per_sequence(shape.text) == 6 * (3 * 8192 * 2 + 32 * 128 * 128 * 4)


def test_another_architecture_is_not_guessed() -> None:
    assert read_shape("LlavaForConditionalGeneration", _CONFIGS[QWEN3_VL]) is None


@pytest.mark.parametrize(
    ("name", "bits"),
    [("qwen3-vl-2b", 16.0), ("qwen3-vl-2b-fp8", 8.0), ("qwen3-vl-2b-awq", 4.5), ("qwen2-vl-2b-awq", 4 + 20 / 128)],
)
def test_the_shipped_shapes_weigh_what_their_precision_says(name: str, bits: float) -> None:
    folder = shape_dir(name)
    assert folder is not None
    checkpoint = read_checkpoint(Folder(folder))
    shape = read_shape(checkpoint.architecture, checkpoint.config)
    assert shape is not None
    weights = measure_weights(shape, checkpoint.config, {})
    text, vision = shape.text, shape.vision.body
    rest = 2 * (text.body.other + text.embedding + vision.total)
    assert weights.total == pytest.approx(rest + text.body.linear * bits / 8, abs=1)
    assert weights.read_per_token == weights.total - 2 * vision.total


@pytest.mark.parametrize(
    ("quantization", "name", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq W4", 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "gptq W8", 8),
        ({"quant_method": "fp8"}, "FP8", 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}},
                "ignore": ["lm_head"],
            },
            "compressed-tensors W8",
            8,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
                    }
                },
                "ignore": ["re:.*lm_head"],
            },
            "compressed-tensors FP4",
            4.5,
        ),
    ],
)
def test_the_precisions_that_checkpoints_come_in(quantization: dict[str, Any], name: str, bits: float) -> None:
    found = quantization_of({"quantization_config": quantization})
    assert found is not None
    assert (found.name, found.bits, found.vision, found.head) == (name, bits, True, False)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ({"quant_method": "quantum7"}, "does not know: 'quantum7'. Known are awq, gptq"),
        ({"quant_method": "awq"}, "no usable `bits`"),
        ({"quant_method": "awq", "bits": 99}, "no usable `bits`"),
        ({"quant_method": "compressed-tensors"}, "without a usable `config_groups`"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": 1}}, "broken|usable"),
        ("4 bits", "is no object"),
    ],
)
def test_a_quantization_that_is_not_known_or_broken_is_refused_by_its_name(quantization: Any, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        quantization_of({"quantization_config": quantization})


def test_headers_count_what_vllm_loads() -> None:
    tensors = {
        "model.language_model.embed_tokens.weight": Tensor("BF16", (1000, 2), 4000),
        "lm_head.weight": Tensor("BF16", (1000, 2), 4000),
        "model.language_model.layers.0.mlp.weight": Tensor("F32", (25, 10), 1000),
        "model.visual.patch_embed.weight": Tensor("BF16", (50,), 100),
        "mtp.layers.0.weight": Tensor("BF16", (5000,), 10_000),
    }
    tied = measure_weights(None, {"tie_word_embeddings": True}, tensors)
    assert (tied.total, tied.read_per_token) == (4000 + 500 + 100, 4000 + 500)
    untied = measure_weights(None, {"tie_word_embeddings": False}, tensors)
    assert (untied.total, untied.read_per_token) == (4000 + 4000 + 500 + 100, 4000 + 500)
    # With headers the sizes are known, whatever the method is called.
    assert measure_weights(None, {"quantization_config": {"quant_method": "quantum7"}}, tensors).precision == "quantum7"


def test_weights_that_vllm_no_longer_reads_are_refused() -> None:
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    with pytest.raises(CheckpointError, match="bitsandbytes, which vLLM no longer has"):
        measure_weights(None, config, {"model.x": Tensor("U8", (10,), 10)})


def test_a_quantization_that_the_text_config_names_is_read_as_one_of_the_whole() -> None:
    tensors = {"layers.0.qweight": Tensor("I32", (250,), 1000), "layers.0.scales": Tensor("F32", (25,), 100)}
    for method in ("gptq", "quantum7"):
        quantization = {"quantization_config": {"quant_method": method, "bits": 4}}
        whole, inner = (measure_weights(None, each, tensors) for each in (quantization, {"text_config": quantization}))
        assert inner == whole
        assert inner.total == 1100  # its 32-bit scales are not those of a 32-bit model


@pytest.mark.parametrize("architecture", [QWEN2_5_VL, QWEN3_VL])
def test_a_head_whose_size_is_not_said_has_its_share_and_no_share_of_nothing(architecture: str) -> None:
    folder = shape_dir("qwen3-vl-8b" if architecture == QWEN3_VL else "qwen2.5-vl-7b")
    assert folder is not None
    config = read_checkpoint(Folder(folder)).config
    text = config.get("text_config", config)
    whole = read_shape(architecture, config | {"text_config": text | {"head_dim": None}})
    assert whole is not None
    assert whole.text.head_dim == 128
    with pytest.raises(CheckpointError, match="no usable `head_dim`"):
        read_shape(architecture, config | {"text_config": text | {"head_dim": None, "num_attention_heads": 10**6}})
