"""Pictures with questions on which a model is calibrated: a folder of the user's, or drawn ones. Nothing is computed here.

A folder holds pictures and, optionally, JSONL files whose lines are `{"image": "a.jpg", "question": "…", "answer": "…"}`
(`images` for several; `answer` may be missing). Pictures that no line names get a plain question.
"""

import json
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from PIL import Image, UnidentifiedImageError

from serving.errors import UsageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# What is asked about a picture without a question of its own, in turn.
_QUESTIONS = ("Describe this picture.", "What is written here?", "请描述这张图片。", "What stands out in this picture?")
_LARGEST_PIXELS = 100_000_000
# Qwen's image processors refuse what is longer (smart_resize).
_LONGEST_ASPECT = 200


@dataclass(frozen=True)
class Sample:
    """One conversation of two turns. `answer` is empty where it is not known: then the question alone is run."""

    images: tuple[str, ...]
    question: str
    answer: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file or line that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Calibration:
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]
    source: str

    def as_job(self) -> tuple[tuple[tuple[str, ...], str, str], ...]:
        """The samples as the worker's job has them."""
        return tuple((each.images, each.question, each.answer) for each in self.samples)

    def report(self) -> str:
        """What a person should know of it, the skipped files by name."""
        lines = [f"Calibration: {len(self.samples)} questions ({self.source}); {len(self.skipped)} skipped."]
        lines += [f"  skipped {each.name}: {each.reason}" for each in self.skipped[:20]]
        return "\n".join([*lines, *(["  …"] if len(self.skipped) > 20 else [])])


def read_folder(folder: Path, count: int, seed: int) -> Calibration:
    """At most `count` samples of the folder, chosen by `seed`. Broken pictures and lines are skipped and named.

    Raises UsageError where nothing of it can be used.
    """
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}. --calibration takes a folder with pictures (and JSONL questions)."
        )
    skipped: list[Skipped] = []
    asked = [sample for file in sorted(folder.glob("*.jsonl")) for sample in _lines(file, folder, skipped)]
    named = {image for sample in asked for image in sample.images}
    pictures = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    plain = [
        Sample((str(file),), _QUESTIONS[index % len(_QUESTIONS)])
        for index, file in enumerate(pictures)
        if str(file) not in named
    ]
    candidates = [*asked, *plain]
    random.Random(seed).shuffle(candidates)
    good: dict[str, str] = {}
    chosen: list[Sample] = []
    for sample in candidates:
        if len(chosen) == count:
            break
        for image in sample.images:
            good.setdefault(image, problem_of(Path(image)))
        if not any(good[image] for image in sample.images):
            chosen.append(sample)
    skipped += [Skipped(Path(image).name, why) for image, why in sorted(good.items()) if why]
    if not chosen:
        why = "; ".join(f"{each.name}: {each.reason}" for each in skipped[:5]) or "it holds no pictures"
        raise UsageError(
            f"Nothing in {folder} can be used to calibrate ({why}). It takes JPEG, PNG, WebP and the like."
        )
    return Calibration(tuple(chosen), tuple(skipped), str(folder))


def _lines(file: Path, folder: Path, skipped: list[Skipped]) -> Iterator[Sample]:
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield _sample(json.loads(line), folder)
        except (ValueError, KeyError, TypeError) as error:
            skipped.append(Skipped(f"{file.name}:{number}", f"not a question ({error})"))


def _sample(row: Any, folder: Path) -> Sample:
    """Raises ValueError, KeyError or TypeError for a line that is none."""
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    images = row.get("images") or ([row["image"]] if "image" in row else [])
    answer = row.get("answer", "")
    if isinstance(answer, list):
        answer = answer[0] if answer else ""
    if not isinstance(row["question"], str) or not all(isinstance(name, str) for name in images):
        raise ValueError("`question` and `image` must be text")
    if not images:
        raise ValueError("it names no picture")
    return Sample(tuple(str(folder / name) for name in images), row["question"], str(answer))


def problem_of(file: Path) -> str:
    """Why a picture cannot be used; empty where it can. It is decoded to the end, since many are only cut off there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.width * image.height > _LARGEST_PIXELS:
                    return f"{image.width} × {image.height} pixels are too many"
                if max(image.size) > _LONGEST_ASPECT * min(image.size):
                    return f"{image.width} × {image.height} pixels are too narrow"
                image.load()
    except FileNotFoundError:
        return "there is no such file"
    except UnidentifiedImageError:
        return "it is not a picture"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return f"it cannot be decoded ({error})"
    return ""


def draw(folder: Path, count: int, seed: int) -> Calibration:
    """At most `count` questions about drawn pictures with right answers, as the demo model was trained on; none of them is of
    the held-out ones. Written into `folder`."""
    from serving.demo.pictures.draw import rasterize
    from serving.demo.questions.conversations import KINDS, question
    from serving.demo.vocabulary import Language

    folder.mkdir(parents=True, exist_ok=True)
    cells = [(kind, language) for kind in KINDS for language in get_args(Language)]
    samples = []
    for index in range(count):
        rng = random.Random(f"calibration {seed} {index}")
        asked = question(rng, *cells[index % len(cells)], "train")
        files = []
        for number, scene in enumerate(asked.images):
            file = folder / f"{index:04}-{number}.png"
            Image.fromarray(rasterize(scene, rng, "train")).save(file)
            files.append(str(file))
        if files:  # without a picture the vision encoder is not run, and the parts of the model would be others
            samples.append(Sample(tuple(files), asked.turns[0].question, asked.turns[0].answer))
    return Calibration(tuple(samples), (), "drawn pictures")
