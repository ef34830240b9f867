"""The commands `onecard quantize`, `requantize-head` and `evaluate`: flags only. What they do is in quantize/ and evaluate/."""

from pathlib import Path
from typing import Annotated

import typer

from serving.commands.printing import print_json

ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="The card that serves the evaluation, or auto.")]
QuestionsOption = Annotated[
    Path | None,
    typer.Option(help="A JSONL file of pictures, questions and answers. [the demo model's held-out questions]"),
]
CountOption = Annotated[int, typer.Option(min=1, help="How many questions are asked at most.")]


def quantize(
    model: Annotated[str, typer.Option("--model", "-m", help="A 16-bit model: a folder, a Hub id, or a known name.")],
    scheme: Annotated[str, typer.Option("--scheme", "-s", help="A file of configs/quantize, such as awq or w8a8.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the result: a new or an empty one.")],
    calibration: Annotated[
        Path | None, typer.Option(help="A folder of pictures, with JSONL questions if there are any. [drawn ones]")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many calibration questions at most.")] = 128,
    questions: QuestionsOption = None,
    count: CountOption = 1000,
    no_evaluation: Annotated[
        bool, typer.Option("--no-evaluation", help="Do not prove the result; it is then not called good.")
    ] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Keep the result although it lost more than the gate allows.")
    ] = False,
    profile: ProfileOption = "auto",
    device: Annotated[str, typer.Option(help="Where layers are computed: auto, cuda or cpu.")] = "auto",
    for_another_card: Annotated[
        bool, typer.Option("--for-another-card", help="Make it although the GPU here cannot run it.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew although an interrupted run could be gone on with.")
    ] = False,
    quantize_python: Annotated[
        Path | None,
        typer.Option(envvar="ONECARD_QUANTIZE_PYTHON", help="A Python that has llm-compressor. [one of onecard's own]"),
    ] = None,
) -> None:
    """Make a 16-bit checkpoint smaller, and prove it as good. In 8 or 4 bits, by a scheme of configs/quantize."""
    from serving.errors import UsageError
    from serving.evaluate.command import Suite
    from serving.quantize.command import Wish
    from serving.quantize.command import quantize as run

    if device not in ("auto", "cuda", "cpu"):
        raise UsageError(f"--device takes auto, cuda or cpu, not {device!r}.")
    wish = Wish(
        model=model,
        scheme=scheme,
        out=out,
        calibration=calibration,
        samples=samples,
        device=device,
        python=quantize_python,
        for_another_card=for_another_card,
        restart=restart,
        suite=None if no_evaluation else Suite(questions, count),
        profile=profile,
        accept_loss=accept_loss,
    )
    try:
        typer.echo(run(wish, _say))
    except KeyboardInterrupt:
        _say("\nInterrupted. The same command goes on from here.")
        raise


def requantize_head(
    model: Annotated[str, typer.Option("--model", "-m", help="An AWQ or compressed-tensors checkpoint.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the result: a new or an empty one.")],
    scheme: Annotated[
        str, typer.Option("--scheme", "-s", help="The scheme whose head is taken: awq-head8 or awq-head8-a8.")
    ] = "awq-head8",
) -> None:
    """Put a quantized checkpoint's output head into 8 bits. Nothing is calibrated again."""
    from serving.quantize.command import requantize

    typer.echo(requantize(model, out, scheme))


def evaluate(
    model: Annotated[str, typer.Option("--model", "-m", help="What is judged: a folder, a name, or a server's URL.")],
    against: Annotated[str, typer.Option("--against", help="What it is compared with, likewise.")],
    questions: QuestionsOption = None,
    count: CountOption = 1000,
    gate: Annotated[
        float | None, typer.Option(min=0, help="Exit 15 where the upper 95% bound of the loss is above so many points.")
    ] = None,
    profile: ProfileOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Ask two checkpoints the same questions. Exact match, agreement, drift, with paired statistics; a running server with
    keys gets the one in ONECARD_API_KEY."""
    from serving.errors import QualityError
    from serving.evaluate.command import Suite
    from serving.evaluate.command import evaluate as run

    suite = Suite(questions, count)
    found = run(model, against, suite, profile)
    told = {"model": model, "against": against, "suite": suite.name, **found.as_json()}
    if as_json:
        print_json(told)
    else:
        typer.echo(found.as_text())
    if gate is not None and not found.within(gate):
        raise QualityError(
            f"Up to {found.upper_points:.2f} points may be lost (upper 95% bound); {gate:g} are allowed."
        )


def _say(text: str) -> None:
    typer.echo(text, err=True)
