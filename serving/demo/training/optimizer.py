"""Muon for the matrices of the layers, AdamW for everything else.

Muon steps along the nearest orthogonal matrix of the gradient's momentum, which trains small transformers from scratch
in clearly fewer steps than AdamW (Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"). The step is
scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so that both share one learning rate. Matrices of one
shape are orthogonalized together: a hundred small ones would otherwise be thousands of kernel launches a step.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_MOMENTUM = 0.95
_WEIGHT_DECAY = 0.05
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A parameter, or one of the `parts` that it stacks: query, key and value are three matrices."""

    parameter: nn.Parameter
    part: int
    parts: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.chunk(self.parts)[self.part]


class Optimizer:
    """One learning rate for all parameters of `modules` that are to be trained."""

    def __init__(self, *modules: nn.Module) -> None:
        self.parameters: list[nn.Parameter] = []
        self.matrices: dict[tuple[int, ...], list[_Matrix]] = defaultdict(list)  # by shape
        rest: list[nn.Parameter] = []
        for name, parameter in (named for module in modules for named in module.named_parameters()):
            if not parameter.requires_grad:
                continue
            self.parameters.append(parameter)
            if parameter.ndim != 2 or "embed" in name or "head" in name:
                rest.append(parameter)
                continue
            parts = 3 if name.endswith("qkv.weight") else 1
            shape = (parameter.shape[0] // parts, parameter.shape[1])
            self.matrices[shape] += [_Matrix(parameter, part, parts) for part in range(parts)]
        device = self.parameters[0].device
        self.momenta = {
            shape: torch.zeros(len(matrices), *shape, device=device) for shape, matrices in self.matrices.items()
        }
        self.adamw = torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda")

    def step(self, rate: float) -> None:
        """Steps along the gradients, clipped, and clears them. What has no gradient (heads of a frozen tower) stays."""
        nn.utils.clip_grad_norm_(self.parameters, _LARGEST_GRADIENT)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        with torch.no_grad():
            for shape, matrices in self.matrices.items():
                _step(matrices, self.momenta[shape], rate)
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {"adamw": self.adamw.state_dict(), "momenta": self.momenta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of an optimizer for the same modules."""
        self.adamw.load_state_dict(state["adamw"])
        for shape, momentum in self.momenta.items():
            momentum.copy_(state["momenta"][shape])


def _step(matrices: list[_Matrix], momentum: torch.Tensor, rate: float) -> None:
    """Muon's, with Nesterov momentum. 0.2 is the usual size of AdamW's steps."""
    gradients = torch.stack([matrix.of(matrix.parameter.grad) for matrix in matrices])
    momentum.lerp_(gradients, 1 - _MOMENTUM)
    steps = orthogonal(gradients.lerp(momentum, _MOMENTUM)) * (0.2 * max(momentum.shape[1:]) ** 0.5)
    weights = [matrix.of(matrix.parameter) for matrix in matrices]
    torch._foreach_mul_(weights, 1 - rate * _WEIGHT_DECAY)
    torch._foreach_add_(weights, list(steps.unbind()), alpha=-rate)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """(n, rows, columns) with their singular values brought to about 1, by five Newton-Schulz steps in bfloat16. The
    coefficients are Jordan's: they rise fast at zero and leave the values between 0.7 and 1.2."""
    rows, columns = matrices.shape[1:]
    x = matrices.to(torch.bfloat16)
    if rows > columns:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315) @ x
    return (x.mT if rows > columns else x).to(matrices.dtype)
