"""`onecard quantize` from its words to a checkpoint that is called good: look, calibrate, put together, prove.

The result appears under its name when it is whole and proven; until then it lies beside it, in `OUT.partial`.
"""

import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from serving.errors import QualityError, UsageError
from serving.evaluate.command import Suite, evaluate
from serving.hub import ResolvedModel, resolve_model
from serving.machine import hardware
from serving.machine.hardware import Hardware
from serving.machine.state_dir import write_json
from serving.models.checkpoint import read_checkpoint
from serving.models.files import Folder
from serving.planning.profile import load_profile
from serving.quantize import environment, folders, unfinished
from serving.quantize.calibration import Calibration, draw, read_folder
from serving.quantize.card import Making, versions_of, write_card
from serving.quantize.check import check_card, check_model, check_out, check_proof, check_room, check_weights, needs
from serving.quantize.head import requantize_head
from serving.quantize.job import Job
from serving.quantize.run import run_worker
from serving.quantize.scheme import Scheme, load_scheme

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
    scheme = load_scheme(wish.scheme)
    resolved = resolve_model(wish.model)
    found = hardware.detect()
    _check_wish(wish, scheme, found)
    check_model(resolved.name, resolved.checkpoint(), scheme)  # before gigabytes are downloaded
    source = resolved.download()
    checkpoint = read_checkpoint(Folder(source))
    check_weights(source, checkpoint)
    shape = check_model(source, checkpoint, scheme)
    tokens = wish.samples * min(LONGEST_TOKENS, LARGEST_PIXELS // shape.vision.pixels_per_token * 2)
    needed = needs(checkpoint, shape, scheme, cached_mib=tokens * shape.text.hidden_size * 4 // MIB)
    check_room(needed, wish.out, psutil.virtual_memory().available // MIB)

    work = wish.out.with_name(wish.out.name + ".partial")
    made = work / "made"
    with unfinished.held(work, anew=wish.restart):
        with folders.writing(work):
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
                samples=calibration.as_job() if calibration else (),
                largest_pixels=LARGEST_PIXELS,
                longest_tokens=LONGEST_TOKENS,
                device="cuda" if wish.device == "auto" and found.gpus else wish.device.replace("auto", "cpu"),
            )
            if done := unfinished.take_up(work, job):
                say(f"Going on with the run that was interrupted: {done}.")
            notes = _make(job, scheme, source, work, wish.python, say)
        making = Making(
            name=wish.out.name,
            model=_called(resolved, source),
            licence=resolved.model.source.licence,
            scheme_name=wish.scheme,
            scheme=scheme,
            command=_command(),
            calibration=f"{notes['used']} questions ({calibration.source})" if calibration else "none needed",
            seconds=notes["seconds"],
            versions=versions_of(folders.read_config(made), environment.requirements()[0]),
        )
        _prove(wish, scheme, source, made, making, say)
        made.rename(wish.out)
        shutil.rmtree(work)
    return wish.out


def _check_wish(wish: Wish, scheme: Scheme, found: Hardware) -> None:
    """What the command line alone tells, the proof's part too: nobody shall hear of a slip only after the calibration."""
    if not wish.for_another_card:
        check_card(scheme, wish.scheme, found)
    check_out(wish.out)
    if wish.suite:
        check_proof(scheme, wish.scheme, found)
        wish.suite.questions()
        if wish.profile != "auto":
            load_profile(wish.profile)


def _calibration(wish: Wish, scheme: Scheme, work: Path) -> Calibration | None:
    if not scheme.calibrated:
        return None
    if wish.calibration is None:
        return draw(work / "pictures", wish.samples, SEED)
    return read_folder(wish.calibration.resolve(), wish.samples, SEED)


def _make(
    job: Job, scheme: Scheme, source: Path, work: Path, python: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The checkpoint `made`, unless it is there already; what is told of its making."""
    interpreter = None if unfinished.is_made(work) else environment.ready(python)
    with unfinished.notes(work) as notes:
        if interpreter:
            notes["used"] = run_worker(job, interpreter, work / "worker.log", say)["used"]
            _assemble(source, work, work / "made", scheme)
    return notes


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
    partial = out.with_name(out.name + ".new")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with folders.writing(partial):
            requantize_head(source, partial, scheme.head)
            readme = source / "README.md"
            said = readme.read_text(encoding="utf-8") if readme.is_file() else ""
            (partial / "README.md").write_text(
                f"{said}\n\n## Output head\n\nPut into 8 bits by `{_command()}`, from `{source.name}`: one scale a row, untied "
                "from the 16-bit embedding. Everything else is unchanged. What is said of quality above was measured before.\n",
                encoding="utf-8",
            )
    except BaseException:  # Ctrl-C too: nobody could go on with what there is, which fills a disk that may be full
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return partial.rename(out)
