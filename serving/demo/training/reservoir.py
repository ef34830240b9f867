"""Pools of conversations on the device: each is used a few times when the device is faster than the drawing."""

from dataclasses import dataclass

import torch

from serving.demo.training.feed import Feed
from serving.demo.training.forward import MicroBatch, load, normalize
from serving.demo.training.patches import GridTables


@dataclass(slots=True, eq=False)
class Kept:
    """A pool on the device. `tokens`: answer tokens in all its micro-batches."""

    batches: list[MicroBatch]
    tokens: int
    conversations: int
    pictures: int
    uses: int = 0


class Reservoir:
    """The `capacity` newest pools of a feed."""

    def __init__(
        self, feed: Feed, image_token: int, tables: GridTables, dtype: torch.dtype, capacity: int, most_uses: int
    ) -> None:
        self.feed, self.image_token, self.tables, self.dtype = feed, image_token, tables, dtype
        self.capacity, self.most_uses = capacity, most_uses
        self.pools: list[Kept] = []
        self.drawn = 0  # pictures

    def next(self) -> Kept:
        """A new pool if one is ready; else the one used least, or a wait where all are used up."""
        least_used = min(self.pools, key=lambda pool: pool.uses, default=None)
        chosen = self._new() if least_used is None or self.feed.ready() else least_used
        chosen.uses += 1
        if chosen.uses >= self.most_uses and chosen in self.pools:
            self.pools.remove(chosen)
        return chosen

    def _new(self) -> Kept:
        pool = take(self.feed, self.image_token, self.tables, self.dtype)
        self.drawn += pool.pictures
        self.pools.append(pool)
        if len(self.pools) > self.capacity:
            self.pools.pop(0)
        return pool


def take(feed: Feed, image_token: int, tables: GridTables, dtype: torch.dtype) -> Kept:
    """The feed's next pool, on the device."""
    batches = [load(arrays, kinds, image_token, tables, dtype) for arrays, kinds in feed.take()]
    return Kept(
        batches,
        tokens=sum(len(batch.answers) for batch in batches),
        conversations=sum(len(batch.tokens) for batch in batches),
        pictures=sum(len(batch.grids) for batch in batches),
    )


def disturbed(batch: MicroBatch, generator: torch.Generator) -> torch.Tensor:
    """Normalized pixels (P, 768), every picture with its own small change of contrast, brightness and noise: the same
    picture is never seen twice, and no colour changes its name."""
    pixels = normalize(batch.patches)
    pictures = len(batch.grids)

    def each(low: float, high: float) -> torch.Tensor:
        values = torch.rand(pictures, 1, device=pixels.device, generator=generator) * (high - low) + low
        return values[batch.pictures]

    noise = torch.randn(pixels.shape, device=pixels.device, generator=generator)
    return pixels * each(0.96, 1.04) + each(-0.03, 0.03) + noise * each(0.0, 0.03)
