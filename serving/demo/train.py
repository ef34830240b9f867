"""Trains the built-in model from scratch and exports it: `python -m serving.demo.train --minutes 12 --out FOLDER`.

On several GPUs: `python -m torch.distributed.run --nproc-per-node 2 -m serving.demo.train --minutes 12 --out FOLDER`.

The schedule follows the clock: whatever the machine, training warms up, decays, and ends on time. `--pause-after` stops
earlier, with a checkpoint that `--resume` goes on from; `--init` starts from an exported model instead of noise.
"""

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from serving.demo.training.architecture import config_for, export, fresh_model
from serving.demo.training.batches import Encoder, held_out_examples, micro_batches, training_examples
from serving.demo.training.corpus import corpus
from serving.demo.training.feed import Feed, Pool
from serving.demo.training.losses import Score
from serving.demo.training.ranks import Ranks
from serving.demo.training.reservoir import Kept, Reservoir, take
from serving.demo.training.tokenizer import train_tokenizer
from serving.demo.training.trainer import Trainer, Window

_WARM_UP_SHARE = 0.04  # of the schedule
_REPORT_SECONDS = 30
_CHECKPOINT_SECONDS = 120
_BYTES_A_CONVERSATION = 500_000  # a fitted picture has up to 310,000, and one conversation in ten several pictures
_BYTES_TO_SPARE = 20_000_000
_WATCHED_POOLS = 4  # of the held-out ones, looked at while training

log = logging.getLogger("onecard.demo.train")


def main() -> None:
    """The command line."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout), logging.FileHandler(options.out / "log.txt")]
    logging.basicConfig(level=logging.INFO if Ranks().first else logging.ERROR, format="%(message)s", handlers=handlers)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive the fork
    train(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.demo.train", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for log.txt, checkpoint.pt, training.json and model/")
    add("--minutes", type=float, default=12, help="length of the schedule (default 12)")
    add("--pause-after", type=float, help="stop after so many minutes of this call, with a checkpoint")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--init", type=Path, help="exported model to start from")
    add("--rate", type=float, default=2e-3, help="highest learning rate (default 0.002)")
    add("--pool", type=int, default=256, help="conversations a step (default 256)")
    add("--micro", type=int, default=128, help="conversations that go through the model at once (default 128)")
    add("--uses", type=int, default=3, help="how often a picture is used at most (default 3)")
    add("--held-out", type=int, default=12, help="pools of held-out conversations (default 12)")
    add("--workers", type=int, help="processes that draw, for each GPU (default: one a core, less one)")
    add("--freeze-vision", action="store_true", help="with --init: train the language model only")
    add("--seed", type=int, default=1)
    return parser.parse_args()


def train(options: argparse.Namespace) -> None:
    """From the first picture to the exported, scored model. Data processes start before the device is touched."""
    called = time.monotonic()
    ranks = Ranks()
    options.workers = options.workers or max(1, (os.cpu_count() or 2) // ranks.count - 1)
    checkpoint: Path = options.out / "checkpoint.pt"
    tokenizer = _tokenizer(options)
    encoder = Encoder(tokenizer)
    # A resumed run draws other pictures than those it has seen.
    seed = f"{options.seed} {checkpoint.stat().st_mtime_ns if options.resume else 0} {ranks.number}"
    drawing = (options.workers, options.pool * _BYTES_A_CONVERSATION + _BYTES_TO_SPARE)
    held_out_feed = Feed(_held_out(encoder, options), *drawing)
    feed = Feed(_endless(encoder, options, seed), *drawing)

    device = ranks.connect()
    torch.backends.cuda.enable_cudnn_sdp(False)  # it would build a plan for every new length
    torch.backends.cuda.matmul.allow_tf32 = True
    trainer = Trainer(_model(options, tokenizer), device, ranks, options.seed, freeze_vision=options.freeze_vision)
    if options.resume:
        trainer.restore(checkpoint)
    image_token = trainer.model.config.image_token_id
    held_out = [take(held_out_feed, image_token, trainer.tables, trainer.dtype) for _ in range(options.held_out)]
    held_out_feed.close()
    reservoir = Reservoir(
        feed, image_token, trainer.tables, trainer.dtype, 256 if device.type == "cuda" else 8, options.uses
    )
    log.info(
        "%d × %s, %d workers each, ready after %.0f s",
        ranks.count,
        device.type,
        options.workers,
        time.monotonic() - called,
    )

    finished = _loop(options, trainer, reservoir, held_out[:_WATCHED_POOLS], checkpoint, called)
    feed.close()
    if ranks.first:
        export(trainer.model, tokenizer, options.out / "model")
        if finished:
            _score_exported(options, trainer, held_out)
        log.info("%s; %.0f s in all", "finished" if finished else "paused", time.monotonic() - called)
    ranks.close()


def _loop(
    options: argparse.Namespace,
    trainer: Trainer,
    reservoir: Reservoir,
    watched: list[Kept],
    checkpoint: Path,
    called: float,
) -> bool:
    """Steps until the schedule's end (True) or until it is time to pause (False)."""
    progress, ranks = trainer.progress, trainer.ranks
    before, began = progress.seconds, time.monotonic()
    length = 60 * float(options.minutes)
    pause = math.inf if options.pause_after is None else called + 60 * options.pause_after
    reported = saved = began
    window, drawn = Window(), 0
    while True:
        now = time.monotonic()
        seconds = before + now - began
        progress.seconds, ends = ranks.agree(seconds, seconds >= length or now >= pause)
        share = progress.seconds / length
        if ranks.first and window.steps and (ends or now - reported >= _REPORT_SECONDS):
            _report(trainer, window, reservoir.drawn - drawn, now - reported, trainer.evaluate(watched))
            window, drawn, reported = Window(), reservoir.drawn, time.monotonic()
        if ranks.first and (ends or now - saved >= _CHECKPOINT_SECONDS):
            trainer.save(checkpoint)
            saved = now
        if ends:
            return share >= 1
        rate = options.rate * min(1.0, share / _WARM_UP_SHARE) * (1 + math.cos(math.pi * share)) / 2
        trainer.step(reservoir.next(), rate, patch_weight=max(0.2, 1 - 1.2 * share), window=window)


def _report(trainer: Trainer, window: Window, drawn: int, seconds: float, scores: dict[str, Score]) -> None:
    log.info(
        "%4.0f s, step %5d: %5.0f pictures/s (%.0f new), loss %.4f | patches %.3f, shapes %.0f%%, characters %.0f%% | %s",
        trainer.progress.seconds,
        trainer.progress.steps,
        window.pictures / seconds,
        drawn / seconds,
        window.mean("loss"),
        window.mean("patches"),
        100 * window.mean("shapes"),
        100 * window.mean("characters"),
        ", ".join(f"{name} {100 * score.share:.0f}" for name, score in scores.items()),
    )


def _score_exported(options: argparse.Namespace, trainer: Trainer, held_out: list[Kept]) -> None:
    """Scores what was written, in its rounded weights, and leaves the figures beside the model."""
    exported = Qwen3VLForConditionalGeneration.from_pretrained(options.out / "model", dtype=torch.float32)
    trainer.model = exported.to(trainer.device).eval()
    scores = trainer.evaluate(held_out)
    for name, score in scores.items():
        log.info("%-28s %6.2f%% of %d", name, 100 * score.share, score.asked)
    progress = trainer.progress
    figures = {
        "parameters": sum(parameter.numel() for parameter in exported.parameters()),
        "seconds": round(progress.seconds),
        "steps": progress.steps,
        "pictures": progress.pictures,
        "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "command": " ".join(["python -m serving.demo.train", *sys.argv[1:]]),
        "whole_answers_right": {name: {"right": each.right, "asked": each.asked} for name, each in scores.items()},
    }
    (options.out / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _tokenizer(options: argparse.Namespace) -> PreTrainedTokenizerFast:
    """A model keeps its tokenizer; only a new one gets a new tokenizer, the same one in every process."""
    number = Ranks().number
    folder: Path = options.out / (f"tokenizer-{number}" if number and not options.resume else "tokenizer")
    if options.init is not None:
        AutoTokenizer.from_pretrained(options.init).save_pretrained(folder)
    elif not options.resume:
        train_tokenizer(corpus()).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _model(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    if options.init is not None:
        return Qwen3VLForConditionalGeneration.from_pretrained(options.init, dtype=torch.float32)
    return fresh_model(config_for(tokenizer), options.seed)


def _held_out(encoder: Encoder, options: argparse.Namespace) -> Callable[[int], Iterator[Pool]]:
    """Each pool has its own seed, so that the set does not depend on the number of workers."""

    def produce(worker: int) -> Iterator[Pool]:
        cv2.setNumThreads(0)
        for number in range(worker, options.held_out, options.workers):
            stream = held_out_examples(encoder, f"held out {number}")
            yield micro_batches(list(islice(stream, options.pool)), options.micro)

    return produce


def _endless(encoder: Encoder, options: argparse.Namespace, seed: str) -> Callable[[int], Iterator[Pool]]:
    def produce(worker: int) -> Iterator[Pool]:
        cv2.setNumThreads(0)
        stream = training_examples(encoder, f"train {seed} {worker}")
        while True:
            yield micro_batches(list(islice(stream, options.pool)), options.micro)

    return produce


if __name__ == "__main__":
    main()
