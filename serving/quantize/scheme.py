"""What a checkpoint is turned into: the YAML files of `configs/quantize`. Pure facts; what is done with them is recipe.py's.

Words are those of compressed-tensors, the format that vLLM reads.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.errors import ConfigError
from serving.planning.profile import configs_dir, read_config


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Head(_Strict):
    """The output head: 8-bit integers with one scale a row. With 16-bit activations on GPUs only; with 8-bit ones, scaled
    for each token while it runs, on vLLM's CPU backend too, which has no kernel for 8-bit weights alone."""

    activations: Literal[8, 16] = 16

    def group(self) -> dict[str, Any]:
        """Its group in compressed-tensors' `config_groups`."""
        return _group(["re:.*lm_head$"], "int", 8, None, True, self.activations)


class Scheme(_Strict):
    """`group_size`: input channels that share a scale; None for one scale a row. `activations` at 8 bits are scaled for
    each token while it runs. `gate_points`: the loss of accuracy, in points, that is still called good."""

    title: str
    method: Literal["awq", "gptq", "round"]
    bits: Literal[4, 8]
    number: Literal["int", "float"] = "int"
    group_size: int | None = Field(default=None, gt=0)
    symmetric: bool = True
    activations: Literal[8, 16] = 16
    head: Head | None = None
    compute_capability: str = Field(description="the oldest GPU generation with a kernel for it")
    gate_points: float = Field(gt=0)

    @property
    def calibrated(self) -> bool:
        """Whether pictures with questions are needed to make it."""
        return self.method != "round"

    @property
    def runs_on_cpu(self) -> bool:
        """Whether vLLM's CPU backend (0.32) serves it: it has no kernel for 8-bit integers with 16-bit activations."""
        body = (self.number, self.bits, self.activations) != ("int", 8, 16)
        return body and (self.head is None or self.head.activations == 8)

    @property
    def weight_bits(self) -> float:
        """Bits that one weight takes, its share of scales and zero points included."""
        zero = 0 if self.symmetric else self.bits
        return self.bits + ((16 + zero) / self.group_size if self.group_size else 0.0)

    def group(self) -> dict[str, Any]:
        """The language model's matrices in compressed-tensors' `config_groups`."""
        return _group(["Linear"], self.number, self.bits, self.group_size, self.symmetric, self.activations)


def _group(
    targets: list[str], number: str, bits: int, group_size: int | None, symmetric: bool, activations: int
) -> dict[str, Any]:
    weights = {
        "num_bits": bits,
        "type": number,
        "strategy": "group" if group_size else "channel",
        "group_size": group_size,
        "symmetric": symmetric,
        "dynamic": False,
    }
    each_token = {"num_bits": activations, "type": number, "strategy": "token", "symmetric": True, "dynamic": True}
    quantized = activations == 8
    kept = {("int", False): "pack-quantized", ("int", True): "int-quantized"}
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": each_token if quantized else None,
        "output_activations": None,
        "format": kept.get((number, quantized), "float-quantized"),
    }


def load_schemes() -> dict[str, Scheme]:
    """All shipped schemes, by name."""
    return {
        path.stem: read_config(path, Scheme)
        for path in sorted((configs_dir() / "quantize").glob("*.yaml"), key=lambda path: path.stem)
    }


def load_scheme(name: str) -> Scheme:
    """Raises ConfigError naming the known ones."""
    schemes = load_schemes()
    if name not in schemes:
        listed = "".join(f"\n  {known}: {scheme.title}" for known, scheme in schemes.items())
        raise ConfigError(f"There is no scheme {name!r}. --scheme takes one of these:{listed}")
    return schemes[name]
