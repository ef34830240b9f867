"""The output head at 8 bits: an untied checkpoint that plain vLLM reads.

A small vision-language model's head is its token embedding, tied: 16 bits that nothing quantizes, 46% of the bytes read for
a token of the 4-bit 2B model. Here it becomes a matrix of its own beside the 16-bit embedding, of which one row is read for a
token: `tie_word_embeddings: false` at both places, `lm_head` tensors, and a group of its own in compressed-tensors' config.
Nothing is calibrated: 8 bits with one scale a row are as good as rounding gets (symmetric, to the largest value of the row).

Packing and formats are compressed-tensors' own, which vLLM brings; so is the conversion of AutoAWQ's format, which knows
one bit width and could not hold such a head.
"""

from pathlib import Path
from typing import Any

from serving.errors import CheckpointError, NotInstalledError, UsageError
from serving.models.checkpoint import weight_files
from serving.models.files import Folder
from serving.models.tensors import Tensor, read_header
from serving.quantize.folders import Tensors, carry_over, read_config, rewrite_weights, write_config
from serving.quantize.scheme import Head

_GROUP = "group_head"
_INT8_MAX = 127


def requantize_head(source: Path, out: Path, head: Head) -> None:
    """Writes `source` into the new folder `out`, its head at 8 bits.

    Raises CheckpointError where it is not quantized as compressed-tensors or AutoAWQ do it, or its head is already.
    """
    try:
        import compressed_tensors  # noqa: F401
    except ImportError as error:
        raise NotInstalledError(
            "This needs compressed-tensors, which comes with vLLM: `make setup` installs it."
        ) from error
    config = read_config(source)
    tensors = _headers(source)
    name = _head_weight(source, config, tensors)
    change, quantization = _body(source, config)
    quantization["config_groups"] = {**quantization["config_groups"], _GROUP: head.group()}
    quantization["ignore"] = [
        each for each in quantization.get("ignore") or [] if each not in ("lm_head", "re:.*lm_head")
    ]
    # Groups of several formats: the config's own word for that, each group naming its own.
    formats = {group.get("format") or quantization.get("format") for group in quantization["config_groups"].values()}
    for group in quantization["config_groups"].values():
        group.setdefault("format", quantization.get("format"))
    quantization["format"] = formats.pop() if len(formats) == 1 else "mixed-precision"
    config["quantization_config"] = quantization
    config["tie_word_embeddings"] = False
    if isinstance(config.get("text_config"), dict):
        config["text_config"]["tie_word_embeddings"] = False
    out.mkdir(parents=True, exist_ok=True)
    carry_over(source, out)
    rewrite_weights(source, out, lambda shard: change(_without_head(shard)), _quantized(source, name, head))
    write_config(out, config)


def _headers(source: Path) -> dict[str, Tensor]:
    files = Folder(source)
    tensors: dict[str, Tensor] = {}
    for name in weight_files(files):
        tensors |= read_header(files, name)
    return tensors


def _head_weight(source: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """The 16-bit matrix that the head is made of: its own, or the embedding that it is tied to."""
    if any(name.startswith("lm_head.") and name != "lm_head.weight" for name in tensors):
        raise CheckpointError(f"{source}: its output head is quantized already.")
    text = config.get("text_config", {})
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    found = [name for name in tensors if name.endswith("embed_tokens.weight" if tied else "lm_head.weight")]
    if not found or tensors[found[0]].dtype not in ("BF16", "F16", "F32"):
        raise CheckpointError(f"{source} has no 16-bit output head or token embedding to make one of.")
    return found[0]


def _body(source: Path, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """How a shard's tensors are changed, and the quantization config of what is not the head."""
    found = config.get("quantization_config")
    quantization: dict[str, Any] = found if isinstance(found, dict) else {}
    method = quantization.get("quant_method")
    if method == "compressed-tensors":
        if not isinstance(quantization.get("config_groups"), dict):
            raise CheckpointError(f"{source}/config.json is broken: compressed-tensors without `config_groups`.")
        return lambda tensors: tensors, quantization
    if method == "awq":
        from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter

        try:
            converter = AutoAWQConverter.from_autoawq_config(quantization)
        except ValueError as error:
            raise CheckpointError(f"{source}: this kind of AWQ cannot be converted ({error}).") from error
        return converter.process, converter.create_config().model_dump(mode="json")
    kind = f"it is quantized by {method!r}" if method else "it is not quantized"
    raise UsageError(
        f"{source} cannot get an 8-bit head alone: {kind}. AWQ and compressed-tensors checkpoints can; from a 16-bit one make "
        "both at once, with `onecard quantize --scheme awq-head8`."
    )


def _without_head(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("lm_head.")}


def _quantized(source: Path, name: str, head: Head) -> Tensors:
    """The head's tensors: values and one scale a row, as its group's format has them."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from safetensors import safe_open

    scheme = QuantizationScheme.model_validate(head.group())
    files = Folder(source)
    file = next(each for each in weight_files(files) if name in read_header(files, each))
    with safe_open(source / file, framework="pt") as shard:
        weight = shard.get_tensor(name)
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float16).tiny) / _INT8_MAX
    compressor = BaseCompressor.get_value_from_registry(str(scheme.format))
    tensors = compressor.compress({"weight": weight, "weight_scale": scale.to(weight.dtype)}, scheme)
    return {f"lm_head.{key}": value for key, value in tensors.items()}
