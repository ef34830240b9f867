"""How many bytes the weights take as vLLM holds them: from the safetensors headers, or, where there are none, from the shape
and the quantization that `config.json` names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serving.errors import CheckpointError
from serving.models.architecture import Shape, Text
from serving.models.tensors import Tensor

_METHODS = ("awq", "gptq", "compressed-tensors", "fp8")
_SCALE_BITS = 16
SIXTEEN_BITS = "16 bits"
# `--quantization`, by vLLM's names for rounding 16 bits while they are loaded (0.32, config/quantization.py): a weight's bits.
_AT_LOADING = dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_channel", "fp8_per_block"), 8.0)
_AT_LOADING |= {"mxfp8": 8 + 8 / 32, "mxfp4": 4 + 8 / 32}


@dataclass(frozen=True)
class Weights:
    """`total` bytes are held; `read_per_token` of them are read for each token that is decoded: the language model with
    its output head, without the vision encoder and without an embedding table of which one row is read. `seeing` are the
    vision encoder's; `offloaded` more are read for each token from the machine's memory. `quantization` is None for 16 bits,
    and where the headers of a method that is not known here were counted."""

    total: int
    read_per_token: int
    precision: str
    source: str
    seeing: int
    offloaded: int = 0
    quantization: "Quantization | None" = None

    @property
    def is_sixteen_bit(self) -> bool:
        return self.precision == SIXTEEN_BITS

    def share(self, cards: int) -> "Weights":
        """What one of so many cards holds and reads: all matrices are split (vLLM's tensor parallelism), the norms, which are
        not, are less than 0.1%."""
        parts = {name: -(-getattr(self, name) // cards) for name in ("total", "read_per_token", "seeing")}
        return replace(self, **parts)

    def blind(self) -> "Weights":
        """Without the vision encoder, which vLLM does not load where no pictures are allowed (`_mark_tower_model` in
        vllm/model_executor/models/interfaces.py)."""
        return replace(self, total=self.total - self.seeing, seeing=0)

    def offload(self, most: int, text: Text) -> "Weights":
        """With so many bytes of the layers, or all of them, in the machine's memory, where the GPU reads them in place
        (`UVAOffloader` in vllm/model_executor/offloader/uva.py); the output head stays."""
        moved = max(0, min(most, self.read_per_token - 2 * text.embedding))
        return replace(self, total=self.total - moved, read_per_token=self.read_per_token - moved, offloaded=moved)


@dataclass(frozen=True)
class Quantization:
    """Bits that one weight of a quantized matrix takes, its share of scales and zero points included. `head_bits` where
    the output head has others than the rest."""

    name: str
    bits: float
    vision: bool
    head: bool
    head_bits: float | None = None

    @property
    def has_zero_points(self) -> bool:
        """Whether it is AWQ's own format, which has one for each group."""
        return self.name.startswith("awq")

    @property
    def is_repacked(self) -> bool:
        """Whether a kernel writes the matrices anew once they are loaded."""
        return self.bits < 8


def at_loading(method: Any, ignored: Any) -> Quantization | None:
    """What vLLM's `quantization` makes of a 16-bit checkpoint; None for what is not known here. All linear layers are rounded,
    the vision encoder's too unless `ignored` (of `quantization_config`) names it. One layer at a time is held at 16 bits."""
    bits = _AT_LOADING.get(method) if isinstance(method, str) else None
    kept = ignored if isinstance(ignored, list) else []
    seen = any("visual" in str(name) for name in kept)
    return Quantization(f"{method} at loading", bits, vision=not seen, head=False) if bits else None


def measure_weights(
    shape: Shape | None, config: Mapping[str, Any], tensors: Mapping[str, Tensor], rounded: Quantization | None = None
) -> Weights:
    """`rounded` is what a 16-bit checkpoint becomes while it is loaded, if anything. Raises CheckpointError where there are no
    tensors and shape or quantization are not known either."""
    if rounded and shape and not _quantized(config):
        return _from_shape(shape, rounded)
    if tensors:
        return _from_headers(config, tensors)
    if shape is None:
        raise CheckpointError("There are no weights here, and this architecture's size cannot be told from its config.")
    return _from_shape(shape, quantization_of(config))


def quantization_of(config: Mapping[str, Any]) -> Quantization | None:
    """What `quantization_config` says; None for 16 bits. Raises CheckpointError for a method that is not known here."""
    quantized = _quantized(config)
    if not quantized:
        return None
    if not isinstance(quantized, dict):
        raise CheckpointError("config.json is broken: its `quantization_config` is no object.")
    method = quantized.get("quant_method")
    kept = quantized.get("modules_to_not_convert") or quantized.get("ignore") or []
    if not isinstance(kept, list):
        raise CheckpointError(f"config.json is broken: what its quantization leaves out is no list ({kept!r}).")
    vision = not any("visual" in str(name) for name in kept)
    match method:
        case "awq" | "gptq":
            bits = _bits(quantized, "bits")
            scales = _per_weight(_SCALE_BITS + bits, quantized.get("group_size", 128))
            return Quantization(f"{method} W{bits}", bits + scales, vision, quantized.get("lm_head") is True)
        case "compressed-tensors":
            return _compressed(quantized, kept, vision)
        case "fp8":
            return Quantization("FP8", 8.0, vision, head=False)
        case "bitsandbytes":
            raise CheckpointError(
                "These weights are quantized by bitsandbytes, which vLLM no longer has. Take the model's AWQ or FP8 version, "
                "or make one of its 16-bit weights (`onecard quantize`)."
            )
    raise CheckpointError(
        f"config.json names a quantization that the plan does not know: {method!r}. Known are {', '.join(_METHODS)}, and no "
        "quantization at all."
    )


def _quantized(config: Mapping[str, Any]) -> Any:
    """Of the whole model, or, as vLLM reads it too, of its language model."""
    return config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")


def _compressed(quantized: Mapping[str, Any], kept: Any, vision: bool) -> Quantization:
    groups = quantized.get("config_groups")
    listed = list(groups.values()) if isinstance(groups, dict) else []
    heads = [group for group in listed if isinstance(group, dict) and _is_head(group.get("targets"))]
    body = next((group for group in listed if group not in heads), None)
    scheme = body.get("weights") if isinstance(body, dict) else None
    if not isinstance(scheme, dict):
        raise CheckpointError("config.json is broken: compressed-tensors without a usable `config_groups`.")
    kind = "FP" if scheme.get("type") == "float" else "W"
    name = f"compressed-tensors {kind}{_bits(scheme, 'num_bits')}"
    head = heads[0].get("weights") if heads else None
    head_bits = _with_scales(head) if isinstance(head, dict) else None
    # The names that are left out may be patterns, as `re:.*lm_head`.
    left_out = any("lm_head" in str(name) for name in kept)
    return Quantization(name, _with_scales(scheme), vision, not left_out, head_bits)


def _is_head(targets: Any) -> bool:
    """Whether a group is the output head's alone."""
    return isinstance(targets, list) and bool(targets) and all("lm_head" in str(target) for target in targets)


def _with_scales(scheme: Mapping[str, Any]) -> float:
    bits = _bits(scheme, "num_bits")
    if scheme.get("strategy") == "tensor_group":
        # NVFP4: a scale of 8 bits for each group, and one for the whole matrix.
        return bits + _per_weight(8, scheme.get("group_size"))
    size = scheme.get("group_size") if scheme.get("strategy") == "group" else None
    return bits + _per_weight(_SCALE_BITS + (0 if scheme.get("symmetric", True) else bits), size)


def _per_weight(group_bits: int, group_size: Any) -> float:
    """A weight's share of what its group has once; nothing to speak of where the group is a whole row (-1, or none)."""
    return group_bits / group_size if isinstance(group_size, int) and group_size > 0 else 0.0


def _bits(scheme: Mapping[str, Any], key: str) -> int:
    bits = scheme.get(key)
    if not isinstance(bits, int) or not 1 <= bits <= 16:
        raise CheckpointError(f"config.json is broken: its quantization has no usable `{key}` ({bits!r}).")
    return bits


def _from_shape(shape: Shape, quantized: Quantization | None) -> Weights:
    text, vision = shape.text, shape.vision
    bits = quantized.bits if quantized else 16
    head_bits = (quantized.head_bits or bits) if quantized and quantized.head and not text.tied else 16
    body = text.body.linear * bits / 8 + text.body.other * 2
    head = text.embedding * head_bits / 8
    embedding = 0 if text.tied else text.embedding * 2
    seeing = vision.body.linear * (bits if quantized and quantized.vision else 16) / 8 + vision.body.other * 2
    return Weights(
        total=round(body + head + embedding + seeing),
        read_per_token=round(body + head),
        precision=quantized.name if quantized else SIXTEEN_BITS,
        source="the config's numbers",
        seeing=round(seeing),
        quantization=quantized,
    )


def _from_headers(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Weights:
    """What vLLM leaves out is left out: the head that repeats a tied embedding, and layers for speculation."""
    method = quantization_of(config) if _known(config) else None
    tied = bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings", False)))
    # Unquantized checkpoints in 32 bits are loaded in 16.
    halved = {"F32": 2, "F64": 4} if not _quantized(config) else {}
    total = read = seen = 0
    for name, tensor in tensors.items():
        if name.startswith("mtp.") or (tied and name.startswith("lm_head.")):
            continue
        size = tensor.nbytes // halved.get(tensor.dtype, 1)
        total += size
        if "visual." in name:
            seen += size
        elif tied or "embed_tokens" not in name:
            read += size
    if method is None and (quantized := _quantized(config)):
        precision = str(quantized.get("quant_method"))
    else:
        precision = method.name if method else SIXTEEN_BITS
    return Weights(total, read, precision, "the headers of the safetensors files", seen, quantization=method)


def _known(config: Mapping[str, Any]) -> bool:
    """With headers the sizes are known, whatever the method is called."""
    quantized = _quantized(config)
    return not isinstance(quantized, dict) or quantized.get("quant_method") in (*_METHODS, "bitsandbytes")
