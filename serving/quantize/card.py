"""The README.md of a checkpoint that was made here: of what, how, with what, and what it lost."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from serving import __version__
from serving.evaluate.compare import Comparison
from serving.quantize.scheme import Scheme


@dataclass(frozen=True)
class Making:
    """How it was made: `versions` of what did it, `calibration` in words."""

    name: str
    model: str
    licence: str
    scheme_name: str
    scheme: Scheme
    command: str
    calibration: str
    seconds: float
    versions: Mapping[str, str]


def write_card(
    folder: Path, making: Making, quality: Comparison | None, *, suite: str = "", accepted: bool = False
) -> None:
    """Writes `README.md`; `accepted` says that the loss is above the gate and was accepted."""
    scheme = making.scheme
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    made = [
        ("from", f"`{making.model}`"),
        ("scheme", f"`{making.scheme_name}`: {scheme.title}"),
        ("language model", _words(scheme)),
        ("output head", _head_words(scheme)),
        ("vision encoder, embedding, norms", "16 bits, unchanged"),
        ("calibration", making.calibration),
        ("made", f"{date.today().isoformat()}, in {making.seconds:.0f} s, onecard {__version__}"),
        ("with", ", ".join(f"{name} {version}" for name, version in making.versions.items())),
        ("size", f"{size / 1e6:,.1f} MB of weights"),
        ("command", f"`{making.command}`"),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in made)
    text = f"""---
license: {making.licence.lower()}
base_model: {making.model}
pipeline_tag: image-text-to-text
tags: [compressed-tensors, vllm]
---
# {making.name}

Loads in vLLM as it is (`vllm serve {making.name}`), by its own `quantization_config`; give it no `--quantization`.

| | |
| --- | --- |
{rows}

## Quality

{_quality(quality, suite, scheme, accepted)}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _words(scheme: Scheme) -> str:
    number = {"int": "integers", "float": "floating-point numbers"}[scheme.number]
    groups = f"one scale for {scheme.group_size} channels" if scheme.group_size else "one scale a row"
    zero = "" if scheme.symmetric else ", with zero points"
    activations = "; 8-bit activations, scaled for each token" if scheme.activations == 8 else "; 16-bit activations"
    how = {"awq": "AWQ", "gptq": "GPTQ", "round": "rounded"}[scheme.method]
    return f"{scheme.bits}-bit {number} by {how}, {groups}{zero}{activations}"


def _head_words(scheme: Scheme) -> str:
    if scheme.head is None:
        return "16 bits, as in the original"
    activations = "8-bit activations" if scheme.head.activations == 8 else "16-bit activations"
    return f"8-bit integers, one scale a row, {activations}; untied from the embedding"


def _quality(quality: Comparison | None, suite: str, scheme: Scheme, accepted: bool) -> str:
    if quality is None:
        return "Not measured. `onecard evaluate --model HERE --against THE_ORIGINAL` measures it."
    verdict = (
        f"**More was lost than the gate of {scheme.gate_points:g} points allows; it was accepted by hand (--accept-loss).**"
        if accepted
        else f"Within the gate: the upper 95% bound of the loss is below {scheme.gate_points:g} points."
    )
    return f"Against the original, on {suite}, both served by vLLM:\n\n```\n{quality.as_text()}\n```\n\n{verdict}"


def versions_of(config: Mapping[str, Any], library: str) -> dict[str, str]:
    """What made it, as far as the result and the requirement tell."""
    name, _, number = library.partition("==")
    found = {name: number}
    if written := config.get("quantization_config", {}).get("version"):
        found["compressed-tensors"] = str(written)
    return found
