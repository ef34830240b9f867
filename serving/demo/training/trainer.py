"""One model in training: a step over a pool of conversations, the score on held-out ones, and its checkpoint."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import Qwen3VLForConditionalGeneration

from serving.demo.training.forward import predict
from serving.demo.training.losses import PatchHeads, Score, answer_loss, by_kind, patch_loss, whole_answers
from serving.demo.training.optimizer import Optimizer
from serving.demo.training.patches import GridTables
from serving.demo.training.ranks import Ranks
from serving.demo.training.reservoir import Kept, disturbed


@dataclass(slots=True)
class Progress:
    """What a checkpoint carries besides weights."""

    seconds: float = 0.0
    steps: int = 0
    pictures: int = 0


@dataclass(slots=True)
class Window:
    """Sums since the last report. Tensors stay on the device, so that adding to them never waits for it."""

    steps: int = 0
    pictures: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, name: str, value: torch.Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0) + value.detach()

    def mean(self, name: str) -> float:
        return float(self.sums[name]) / self.steps if name in self.sums else math.nan


class Trainer:
    """Model, heads and optimizer on one device, and what a step does with them."""

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        device: torch.device,
        ranks: Ranks,
        seed: int,
        *,
        freeze_vision: bool = False,
    ) -> None:
        """With `freeze_vision` only the language model learns: new phrasings, of a picture that it sees well already."""
        self.device = device
        self.ranks = ranks
        self.freeze_vision = freeze_vision
        self.model = model.to(device).train()
        self.model.model.visual.requires_grad_(not freeze_vision)
        vision = model.config.vision_config
        self.heads = PatchHeads(vision.hidden_size).to(device)
        self.tables = GridTables(vision.hidden_size // vision.num_heads, device)
        self.optimizer = Optimizer(self.model, self.heads)
        self.noise = torch.Generator(device).manual_seed(seed + ranks.number)
        # Without matrix units for it, a CPU would emulate bfloat16.
        self.dtype = torch.bfloat16 if device.type == "cuda" or _cpu_has_bfloat16() else torch.float32
        self.progress = Progress()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def step(self, pool: Kept, rate: float, patch_weight: float, window: Window) -> None:
        """One optimizer step over a pool, micro-batch by micro-batch."""
        for batch in pool.batches:
            with self.autocast():
                prediction = predict(self.model, batch, disturbed(batch, self.noise))
                answers = answer_loss(prediction) / pool.tokens
            loss = answers
            window.add("loss", answers)
            if not self.freeze_vision:
                share = len(batch.grids) / pool.pictures
                with self.autocast():
                    seen = patch_loss(self.heads, prediction.features, batch)
                loss = answers + patch_weight * share * seen.loss
                window.add("patches", seen.loss * share)
                window.add("shapes", seen.shapes_right * share)
                window.add("characters", seen.characters_right * share)
            loss.backward()
        self.ranks.average(self.optimizer.parameters)
        self.optimizer.step(rate)
        self.progress.steps += 1
        self.progress.pictures += pool.pictures * self.ranks.count
        window.steps += 1
        window.pictures += pool.pictures * self.ranks.count

    def evaluate(self, pools: list[Kept]) -> dict[str, Score]:
        """Share of answers that greedy decoding would write word for word, by kind and language."""
        kinds: list[str] = []
        right: list[bool] = []
        for batch in (batch for pool in pools for batch in pool.batches):
            with torch.no_grad(), self.autocast():
                whole = whole_answers(predict(self.model, batch), batch)
            kinds += batch.kinds
            right += whole.tolist()
        return by_kind(kinds, right)

    def save(self, path: Path) -> None:
        """Atomically: a reader sees the old checkpoint or the new one."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def restore(self, path: Path) -> None:
        """Goes on from `save`. The file is one of ours: it is unpickled."""
        state = torch.load(path, map_location=self.device, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = state["progress"]


def _cpu_has_bfloat16() -> bool:
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
