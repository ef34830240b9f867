"""What is minimized: the answers' cross-entropy, and what the vision tower should see in every patch.

Also how often an answer is predicted whole. That equals greedy decoding: if every token of an answer is the most
likely one after the tokens before it, greedy decoding writes exactly this answer, and the other way round.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from serving.demo.training.forward import MicroBatch, Prediction
from serving.demo.training.targets import CHARACTERS, COLOR_CLASSES, SHAPE_CLASSES


class PatchHeads(nn.Module):  # type: ignore[misc]  # torch is optional: mypy sees no types of it
    """Reads shape, colour and characters off a patch's features. Training only: it is not exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, SHAPE_CLASSES + COLOR_CLASSES + len(CHARACTERS))
        nn.init.constant_(self.head.bias[-len(CHARACTERS) :], -4.0)  # a character is in few patches

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self.head(self.norm(features)).float()
        shapes, colors, characters = logits.split([SHAPE_CLASSES, COLOR_CLASSES, len(CHARACTERS)], dim=-1)
        return shapes, colors, characters


@dataclass(frozen=True, slots=True)
class PatchLoss:
    """`loss` is a mean over patches. The shares are of patches with a shape, or with characters, that are read right."""

    loss: torch.Tensor
    shapes_right: torch.Tensor
    characters_right: torch.Tensor


def patch_loss(heads: PatchHeads, features: torch.Tensor, batch: MicroBatch) -> PatchLoss:
    """Patches that show something are a tenth of all; they weigh as much as the empty ones."""
    shapes, colors, characters = heads(features)
    bits = torch.arange(len(CHARACTERS), device=features.device)
    present = (batch.characters[:, None] >> bits) & 1
    shape_targets, color_targets = batch.shapes.long(), batch.colors.long()
    is_item, is_text = shape_targets > 0, batch.characters != 0
    each = (
        functional.cross_entropy(shapes, shape_targets, reduction="none")
        + functional.cross_entropy(colors, color_targets, reduction="none")
        + functional.binary_cross_entropy_with_logits(characters, present.float(), reduction="none").sum(-1)
    )
    weight = 1 + 3.0 * is_item + 6.0 * is_text
    read = ((characters > 0) == present.bool()).all(-1)
    return PatchLoss(
        (each * weight).mean(),
        _share(shapes.argmax(-1) == shape_targets, is_item),
        _share(read, is_text),
    )


def _share(right: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    return (right & among).sum() / among.sum().clamp(min=1)


def answer_loss(prediction: Prediction) -> torch.Tensor:
    """Sum over the answer tokens."""
    return functional.cross_entropy(prediction.logits.float(), prediction.targets, reduction="sum")


@dataclass(frozen=True, slots=True)
class Score:
    """How many answers of one kind were predicted whole."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked


def whole_answers(prediction: Prediction, batch: MicroBatch) -> torch.Tensor:
    """(answers,) bool: whether every token of the answer is the most likely one."""
    wrong = torch.zeros(len(batch.kinds), dtype=torch.int64, device=prediction.logits.device)
    wrong.index_add_(0, batch.answers, (prediction.logits.argmax(-1) != prediction.targets).long())
    return wrong == 0


def by_kind(kinds: list[str], right: list[bool]) -> dict[str, Score]:
    """Scores of each kind, in alphabetical order, and of "all"."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for kind, is_right in zip(kinds, right, strict=True):
        for name in (kind, "all"):
            counts[name][0] += is_right
            counts[name][1] += 1
    return {name: Score(*counts[name]) for name in sorted(counts)}
