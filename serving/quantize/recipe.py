"""A scheme in llm-compressor's words. Runs in the worker's environment."""

from typing import Any

from compressed_tensors.quantization import QuantizationScheme
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform import AWQModifier

# The head is head.py's; the vision encoder reads few bytes a token and sees what cannot be seen again.
_KEPT = ["lm_head", "re:.*visual.*"]


def modifiers(method: str, group: dict[str, Any]) -> list[Modifier]:
    """`group` is one of compressed-tensors' `config_groups`.

    AWQ (arXiv:2306.00978) looks for the best scale of every channel with and without the weights' share ("both"), and
    rounds by the least squared error, as GPTQ (arXiv:2210.17323) does by construction.
    """
    scheme = QuantizationScheme.model_validate(group)
    if method == "gptq":
        return [GPTQModifier(config_groups={"group_0": scheme}, ignore=_KEPT, dampening_frac=0.01)]
    rounding = QuantizationModifier(config_groups={"group_0": scheme}, ignore=_KEPT)
    if method == "round":
        return [rounding]
    return [AWQModifier(duo_scaling="both"), rounding]
