"""From conversations to the arrays that the model is trained on. Runs in the data processes: NumPy only, no device.

The text is rendered by the checkpoint's own chat template and cut by its own tokenizer, so that training sees exactly
the prompts that the server will build.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, product
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from serving.demo.pictures.draw import draw
from serving.demo.pictures.fitting import fit, fitted_size
from serving.demo.pictures.scene import Scene, Split
from serving.demo.questions.conversations import KINDS, Conversation, Turn, conversation, photograph_question, question
from serving.demo.training.architecture import MERGE_SIZE
from serving.demo.training.patches import Grid, to_patches
from serving.demo.training.targets import PatchTargets, patch_targets
from serving.demo.vocabulary import Language

Arrays = dict[str, npt.NDArray[Any]]
Picture = tuple[npt.NDArray[np.uint8], Grid, PatchTargets]


_SHARE_ALONE = 0.7  # of the questions begin a conversation of their own


@dataclass(frozen=True, slots=True)
class Example:
    """Conversations about the same pictures, as n tokens: what they have in common, then one branch after the other.

    A branch sees the common tokens and itself, and its positions go on from theirs: each is exactly what the server
    would see, and the pictures are looked at once for all. `positions` (3, n): time, row, column. `branches` (n,): 0 for
    what is common. `turns` (n,): number of the answer that a token belongs to, or -1.
    """

    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    branches: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    kinds: list[str]
    pictures: list[Picture]


class Encoder:
    """Renders and cuts conversations with one tokenizer and its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.heads: dict[str, list[int]] = {}
        self.end_of_answer = self.cut("<|im_end|>")
        self.next_question = self.cut("\n<|im_start|>user\n")

    def example(self, asked: Conversation, branches: list[list[Turn]], pictures: list[Picture]) -> Example:
        """`branches` are turns of `asked`; each is a conversation of its own about its pictures."""
        head, positions = self._place(self._head(asked), [grid for _, grid, _ in pictures])
        begin = int(positions.max()) + 1
        tokens, places = [head], [positions]
        branch_of, turn_of = [np.zeros_like(head)], [np.full_like(head, -1)]
        kinds: list[str] = []
        for number, turns in enumerate(branches, start=1):
            ids, numbers = self._branch(turns, first=len(kinds))
            tokens.append(ids)
            places.append(np.tile(begin + np.arange(len(ids)), (3, 1)))
            branch_of.append(np.full_like(ids, number))
            turn_of.append(numbers)
            kinds += [f"{turn.kind} {turn.language}" for turn in turns]
        return Example(
            np.concatenate(tokens),
            np.concatenate(places, axis=1),
            np.concatenate(branch_of),
            np.concatenate(turn_of),
            kinds,
            pictures,
        )

    def cut(self, text: str) -> list[int]:
        """The tokens of a text that may hold special tokens."""
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _head(self, asked: Conversation) -> npt.NDArray[np.int64]:
        """The prompt up to the first question: system text, tools, pictures. There are few different ones."""
        key = f"{len(asked.images)} {asked.system} {asked.tools}"
        if key not in self.heads:
            messages = messages_of(replace(asked, turns=[Turn("", "", "", "en")]))[:-1]
            text = self.tokenizer.apply_chat_template(messages, tools=asked.tools, tokenize=False)
            self.heads[key] = self.cut(text.removesuffix("<|im_end|>\n"))
        return np.array(self.heads[key])

    def _branch(self, turns: list[Turn], first: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens from the first question to the end of the last answer, and the answers' numbers from `first`."""
        ids: list[int] = []
        numbers: list[int] = []
        for number, turn in enumerate(turns, start=first):
            question = self.cut(f"{turn.question}<|im_end|>\n<|im_start|>assistant\n")
            question = question if number == first else self.next_question + question
            answer = self.cut(turn.answer) + self.end_of_answer
            ids += question + answer
            numbers += [-1] * len(question) + [number] * len(answer)
        return np.array(ids), np.array(numbers)

    def _place(
        self, tokens: npt.NDArray[np.int64], grids: list[Grid]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """One image token a picture becomes one for each merge block, and every token gets its three positions:
        text counts on, a picture spreads over rows and columns and takes as many places as its longer side."""
        out_tokens, out_positions = [], []
        start, position = 0, 0
        ends = np.flatnonzero(tokens == self.image_token)
        for end, grid in zip([*ends, len(tokens)], [*grids, None], strict=True):
            text = tokens[start:end]
            out_tokens.append(text)
            out_positions.append(np.tile(position + np.arange(len(text)), (3, 1)))
            position += len(text)
            if grid is not None:
                rows, columns = grid[0] // MERGE_SIZE, grid[1] // MERGE_SIZE
                out_tokens.append(np.full(rows * columns, self.image_token))
                out_positions.append(position + np.indices((1, rows, columns)).reshape(3, -1))
                position += max(rows, columns)
            start = end + 1
        return np.concatenate(out_tokens), np.concatenate(out_positions, axis=1)


def messages_of(asked: Conversation) -> list[dict[str, Any]]:
    """Chat messages as a client sends them: the pictures come first in the first question."""
    messages: list[dict[str, Any]] = []
    if asked.system is not None:
        messages.append({"role": "system", "content": asked.system})
    pictures = [{"type": "image"}] * len(asked.images)
    for number, turn in enumerate(asked.turns):
        parts = [*(pictures if number == 0 else []), {"type": "text", "text": turn.question}]
        messages.append({"role": "user", "content": parts})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


def branches_of(turns: list[Turn], rng: random.Random, share_alone: float) -> list[list[Turn]]:
    """Cuts turns into conversations: each begins a new one with this chance, unless it speaks of the turn before it.
    Asked on their own, later questions cannot be answered from earlier answers: they take a look at the picture."""
    branches: list[list[Turn]] = []
    for turn in turns:
        if not branches or (turn.kind != "follow_up" and rng.random() < share_alone):
            branches.append([])
        branches[-1].append(turn)
    return branches


def picture(scene: Scene, rng: random.Random, split: Split) -> Picture:
    """Draws a scene and fits it to the model's grid. Servers resize with different filters: training sees several, and
    mostly OpenCV's, which are the fastest; held-out pictures are resized as the model's image processor does."""
    drawn = draw(scene, rng, split)
    if split == "train" and rng.random() < 0.75:
        height, width = drawn.shape[:2]
        size = fitted_size(width, height)
        drawn = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA if size[0] < width else cv2.INTER_CUBIC)
    patches, grid = to_patches(fit(drawn))
    return patches, grid, patch_targets(scene, grid, split)


def training_examples(encoder: Encoder, seed: str) -> Iterator[Example]:
    """Examples without end; a seed always gives the same ones."""
    rng = random.Random(seed)
    while True:
        asked = conversation(rng, "train")
        branches = branches_of(asked.turns, rng, _SHARE_ALONE)
        yield encoder.example(asked, branches, [picture(scene, rng, "train") for scene in asked.images])


def held_out_examples(encoder: Encoder, seed: str) -> Iterator[Example]:
    """One question after the other, all kinds in both languages in turn, with fonts and textures of the evaluation."""
    rng = random.Random(seed)
    for kind, language in cycle(product((*KINDS, "photo"), get_args(Language))):
        photo = kind == "photo"
        asked = photograph_question(rng, language, "eval") if photo else question(rng, kind, language, "eval")
        yield encoder.example(asked, [asked.turns], [picture(scene, rng, "eval") for scene in asked.images])


def micro_batches(pool: list[Example], size: int) -> list[tuple[Arrays, list[str]]]:
    """A pool of examples in batches of `size` texts of about the same length, so that little of them is padding."""
    pool = sorted(pool, key=lambda example: len(example.tokens))
    return [collate(pool[start : start + size]) for start in range(0, len(pool), size)]


def collate(examples: list[Example]) -> tuple[Arrays, list[str]]:
    """Texts padded on the right to a multiple of 8 tokens, patches of all pictures one after the other; the kinds of
    all answers, numbered through."""
    longest = -(-max(len(example.tokens) for example in examples) // 8) * 8
    tokens = np.zeros((len(examples), longest), np.int64)
    positions = np.zeros((3, len(examples), longest), np.int64)
    branches = np.zeros((len(examples), longest), np.int64)
    turns = np.full((len(examples), longest), -1, np.int64)
    kinds: list[str] = []
    for row, example in enumerate(examples):
        length = len(example.tokens)
        tokens[row, :length] = example.tokens
        positions[:, row, :length] = example.positions
        branches[row, :length] = example.branches
        turns[row, :length] = np.where(example.turns >= 0, example.turns + len(kinds), -1)
        kinds += example.kinds
    pictures = [each for example in examples for each in example.pictures]
    arrays = {
        "patches": np.concatenate([patches for patches, _, _ in pictures]),
        "grids": np.array([grid for _, grid, _ in pictures]),
        "shapes": np.concatenate([targets.shapes for _, _, targets in pictures]),
        "colors": np.concatenate([targets.colors for _, _, targets in pictures]),
        "characters": np.concatenate([targets.characters for _, _, targets in pictures]),
        "tokens": tokens,
        "positions": positions,
        "branches": branches,
        "turns": turns,
    }
    return arrays, kinds
