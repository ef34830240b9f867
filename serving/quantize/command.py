"""`onecard quantize` from its words to a checkpoint that is called good: look, calibrate, put together, prove.

The result appears under its name when it is whole and proven; until then it lies beside it, in `OUT.partial`.
"""

import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from serving import hardware
from serving.checkpoint import read_checkpoint
from serving.errors import QualityError, UsageError
from serving.evaluate.command import Suite, evaluate
from serving.files import Folder
from serving.hub import ResolvedModel, resolve_model
from serving.quantize import environment, folders
from serving.quantize.calibration import Calibration, draw, read_folder
from serving.quantize.card import Making, versions_of, write_card
from serving.quantize.check import check_card, check_model, check_out, check_room, check_weights, needs
from serving.quantize.head import requantize_head
from serving.quantize.job import Job, fingerprint_of
from serving.quantize.run import run_worker
from serving.quantize.scheme import Scheme, load_scheme
from serving.state_dir import write_json

MIB = 2**20
SEED = 1
# 512 × 512: what a calibration sees of a picture. More tokens of the same picture tell little more of the channels.
LARGEST_PIXELS = 262_144
LONGEST_TOKENS = 2048
# The layer after which the model is cut, by architecture.
TARGETS = {
    "Qwen2VLForConditionalGeneration": "Qwen2VLDecoderLayer",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2_5_VLDecoderLayer",
    "Qwen3VLForConditionalGeneration": "Qwen3VLTextDecoderLayer",
}


@dataclass(frozen=True)
class Wish:
    """What was asked for on the command line. `suite` is None for no evaluation."""

    model: str
    scheme: str
    out: Path
    calibration: Path | None
    samples: int
    device: str
    python: Path | None
    for_another_card: bool
    restart: bool
    suite: Suite | None
    profile: str
    accept_loss: bool


def quantize(wish: Wish, say: Callable[[str], None]) -> Path:
    """The finished folder. Raises what the checks and steps raise, and QualityError where more was lost than allowed."""
    began = time.monotonic()
    scheme = load_scheme(wish.scheme)
    resolved = resolve_model(wish.model)
    found = hardware.detect()
    if not wish.for_another_card:
        check_card(scheme, wish.scheme, found)
    check_out(wish.out)
    check_model(resolved.name, resolved.checkpoint(), scheme)  # before gigabytes are downloaded
    source = resolved.download()
    checkpoint = read_checkpoint(Folder(source))
    check_weights(source, checkpoint)
    shape = check_model(source, checkpoint, scheme)
    tokens = wish.samples * min(LONGEST_TOKENS, LARGEST_PIXELS // shape.vision.pixels_per_token * 2)
    needed = needs(checkpoint, shape, scheme, cached_mib=tokens * shape.text.hidden_size * 4 // MIB)
    check_room(needed, wish.out, psutil.virtual_memory().available // MIB)

    work = wish.out.with_name(wish.out.name + ".partial")
    if wish.restart:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    calibration = _calibration(wish, scheme, work)
    if calibration:
        say(calibration.report())
    job = Job(
        scheme=wish.scheme,
        model=str(source.resolve()),
        work=str(work.resolve()),
        method=scheme.method,
        group=scheme.group(),
        targets=TARGETS[checkpoint.architecture],
        samples=tuple((each.images, each.question, each.answer) for each in calibration.samples) if calibration else (),
        largest_pixels=LARGEST_PIXELS,
        longest_tokens=LONGEST_TOKENS,
        device="cuda" if wish.device == "auto" and found.gpus else wish.device.replace("auto", "cpu"),
    )
    _take_up(job, work, say)
    made = work / "made"
    if not (made / "config.json").is_file():  # which is written last
        run_worker(job, environment.ready(wish.python), work / "worker.log", say)
        with folders.writing(work):
            _assemble(source, work, made, scheme)
    making = Making(
        name=wish.out.name,
        model=_called(resolved, source),
        licence=resolved.model.source.licence,
        scheme_name=wish.scheme,
        scheme=scheme,
        command=_command(),
        calibration=f"{len(calibration.samples)} questions ({calibration.source})" if calibration else "none needed",
        seconds=time.monotonic() - began,
        versions=versions_of(folders.read_config(made), environment.requirements()[0]),
    )
    _prove(wish, scheme, source, made, making, say)
    made.rename(wish.out)
    shutil.rmtree(work)
    return wish.out


def _calibration(wish: Wish, scheme: Scheme, work: Path) -> Calibration | None:
    if not scheme.calibrated:
        return None
    if wish.calibration is None:
        return draw(work / "pictures", wish.samples, SEED)
    return read_folder(wish.calibration.resolve(), wish.samples, SEED)


def _take_up(job: Job, work: Path, say: Callable[[str], None]) -> None:
    """Goes on with what an interrupted run left, if it was the same run. Raises UsageError where it was another."""
    before = work / "job.json"
    kept = len(list(work.glob("layers/*.safetensors")))
    made = (work / "made" / "config.json").is_file()
    if before.is_file() and (kept or made):
        if fingerprint_of(before) != job.fingerprint():
            raise UsageError(
                f"{work} holds an unfinished run with another model, scheme or calibration. Give the same ones to go on with "
                "it, or add --restart to begin anew."
            )
        done = "the checkpoint is made" if made else f"{kept} parts are done"
        say(f"Going on with the run that was interrupted: {done}.")
    job.write()


def _assemble(source: Path, work: Path, made: Path, scheme: Scheme) -> None:
    """The checkpoint folder `made`: what the library has written, under the source's config and beside its other files."""
    saved, body = work / "saved", work / "body"
    for folder in (body, made):
        shutil.rmtree(folder, ignore_errors=True)
    body.mkdir()
    folders.carry_over(source, body)
    config = folders.read_config(source)
    config["quantization_config"] = folders.read_config(saved)["quantization_config"]
    folders.write_config(body, config)
    for file in [*saved.glob("*.safetensors"), *saved.glob(folders.INDEX)]:
        shutil.move(file, body / file.name)
        (body / file.name).chmod(0o644)  # the library's temporary files are their owner's only
    if scheme.head is None:
        body.rename(made)
    else:
        requantize_head(body, made, scheme.head)
        shutil.rmtree(body)


def _prove(wish: Wish, scheme: Scheme, source: Path, made: Path, making: Making, say: Callable[[str], None]) -> None:
    """Asks both checkpoints and writes what it came to. Raises QualityError above the gate, unless that was accepted."""
    if wish.suite is None:
        write_card(made, making, None)
        say("Not evaluated, so nothing is known of its answers: `onecard evaluate` measures them.")
        return
    if wish.suite.file is None and making.model != "demo":
        say(
            "Asked about drawn pictures. Questions of your own work (--questions FILE.jsonl) would say more of this model."
        )
    quality = evaluate(str(made), str(source), wish.suite, wish.profile)
    within = quality.within(scheme.gate_points)
    say(quality.as_text())
    write_card(made, making, quality, suite=wish.suite.name, accepted=not within)
    write_json(
        made / "quality.json", {"suite": wish.suite.name, "gate_points": scheme.gate_points, **quality.as_json()}
    )
    if not within and not wish.accept_loss:
        raise QualityError(refusal(quality.upper_points, scheme.gate_points, made))


def refusal(upper_points: float, gate_points: float, where: Path) -> str:
    """Why a checkpoint is not called good, and what to do."""
    return (
        f"Not called good: up to {upper_points:.2f} points of accuracy may be lost (upper 95% bound), and {gate_points:g} are "
        f"allowed. Try more or better calibration (--calibration with pictures of your own, --samples), an 8-bit scheme, or "
        f"more questions (--count) where the bound is wide only because few were asked. The result lies in {where}; "
        "--accept-loss takes it as it is."
    )


def _called(resolved: ResolvedModel, source: Path) -> str:
    return resolved.model.source.hub or resolved.model.source.builtin or source.name


def _command() -> str:
    return shlex.join(["onecard", *sys.argv[1:]])


def requantize(model: str, out: Path, scheme_name: str) -> Path:
    """`onecard requantize-head`. Raises as its parts do."""
    scheme = load_scheme(scheme_name)
    if scheme.head is None:
        raise UsageError(f"The scheme {scheme_name} has no 8-bit head. Take awq-head8 or awq-head8-a8.")
    check_out(out)
    source = resolve_model(model).download()
    read_checkpoint(Folder(source))
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with folders.writing(partial):
            requantize_head(source, partial, scheme.head)
            readme = source / "README.md"
            said = readme.read_text(encoding="utf-8") if readme.is_file() else ""
            (partial / "README.md").write_text(
                f"{said}\n\n## Output head\n\nPut into 8 bits by `{_command()}`, from `{source.name}`: one scale a row, untied "
                "from the 16-bit embedding. Everything else is unchanged.\n",
                encoding="utf-8",
            )
    except BaseException:  # Ctrl-C too: nobody could go on with what there is, which fills a disk that may be full
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return partial.rename(out)
