"""How a picture becomes patches, in exactly the order of Qwen3-VL's image processor, and what a patch's place implies.

Patches come block by block: the four of a 2 × 2 merge block follow each other, and become one token of the language
model. They stay uint8 here; normalization happens where the model runs (forward.py).
"""

import numpy as np
import numpy.typing as npt
import torch

from serving.demo.training.architecture import MERGE_SIZE, PATCH_SIZE, POSITIONS_PER_SIDE

Grid = tuple[int, int]  # patches down, patches across
MAX_PATCHES = 400


def to_patches(picture: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Grid]:
    """(height, width, 3), both multiples of 32 → (patches, 16 · 16 · 3) and the grid. Within a patch: row, column, channel."""
    height, width, _ = picture.shape
    block = PATCH_SIZE * MERGE_SIZE
    blocks = picture.reshape(height // block, MERGE_SIZE, PATCH_SIZE, width // block, MERGE_SIZE, PATCH_SIZE, 3)
    patches = blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(-1, PATCH_SIZE * PATCH_SIZE * 3)
    return patches, (height // PATCH_SIZE, width // PATCH_SIZE)


def patch_places(grid: Grid) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and column of each patch, in the order of `to_patches`."""
    rows, columns = np.indices(grid)
    shape = (grid[0] // MERGE_SIZE, MERGE_SIZE, grid[1] // MERGE_SIZE, MERGE_SIZE)
    return rows.reshape(shape).swapaxes(1, 2).ravel(), columns.reshape(shape).swapaxes(1, 2).ravel()


class GridTables:
    """For every grid met so far: how the learned positions are resampled to it, and its rotary angles.

    Resampling is bilinear with aligned corners, as in Qwen3-VL, written as a matrix so that its gradient is a product
    too. Tables are padded to MAX_PATCHES and stacked, so that a batch of mixed grids indexes them at once.
    """

    def __init__(self, head_dim: int, device: torch.device) -> None:
        self.device = device
        self.frequencies = 1.0 / 10_000.0 ** (np.arange(0, head_dim // 2, 2, dtype=np.float32) / (head_dim // 2))
        self.numbers: dict[Grid, int] = {}
        self.resampling = torch.empty(0, MAX_PATCHES, POSITIONS_PER_SIDE**2, device=device)
        self.angles = torch.empty(0, MAX_PATCHES, head_dim // 2, device=device)

    def indices(self, grids: list[Grid]) -> torch.Tensor:
        """The row of each grid in `resampling` and `angles`; unknown grids are added first."""
        for grid in grids:
            if grid not in self.numbers:
                resampling, angles = self._tables(grid)
                self.numbers[grid] = len(self.numbers)
                self.resampling = torch.cat([self.resampling, resampling[None].to(self.device)])
                self.angles = torch.cat([self.angles, angles[None].to(self.device)])
        return torch.tensor([self.numbers[grid] for grid in grids], device=self.device)

    def _tables(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        places = patch_places(grid)
        count = len(places[0])
        if count > MAX_PATCHES:
            raise ValueError(f"a grid of {grid[0]} × {grid[1]} patches has more than {MAX_PATCHES}")
        rows, columns = (_linear(size)[place] for size, place in zip(grid, places, strict=True))
        resampling = np.zeros((MAX_PATCHES, POSITIONS_PER_SIDE**2), np.float32)
        resampling[:count] = (rows[:, :, None] * columns[:, None, :]).reshape(count, -1)
        angles = np.zeros((MAX_PATCHES, 2 * len(self.frequencies)), np.float32)
        angles[:count] = np.concatenate([place[:, None] * self.frequencies for place in places], axis=1)
        return torch.from_numpy(resampling), torch.from_numpy(angles)


def _linear(size: int) -> npt.NDArray[np.float32]:
    """(size, POSITIONS_PER_SIDE): weights that resample the learned positions of one axis to `size` places."""
    source = np.arange(size, dtype=np.float32) * (POSITIONS_PER_SIDE - 1) / max(size - 1, 1)
    distance = np.abs(source[:, None] - np.arange(POSITIONS_PER_SIDE, dtype=np.float32))
    weights: npt.NDArray[np.float32] = np.maximum(1 - distance, 0)
    return weights
