"""`make bench`: how fast it is, each question put to each contender side by side; a table, a JSON and a plot come out.

python -m benchmarks                                      what this machine can do
python -m benchmarks latency throughput --contenders onecard,vllm
python -m benchmarks throughput --url http://127.0.0.1:11434/v1 --model qwen3-vl:2b      Ollama, llama.cpp, any other
python -m benchmarks … -- --max-model-len 8192            what follows the dashes goes to every vLLM
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks import contenders, cores, ending, plot
from benchmarks.contenders import Contender, Setting
from benchmarks.generator import Generator
from benchmarks.questions import apps, burst, goodput, latency, long, several, start, text, throughput, where
from benchmarks.results import RESULTS, Book, new_run, table
from benchmarks.run import Job, Place, ask_url, run_all
from benchmarks.servers import DiedError, first_model
from benchmarks.target import Scope
from serving.errors import OnecardError
from serving.prepare import prepare

QUESTIONS = {
    module.QUESTION.name: module.QUESTION
    for module in (burst, latency, throughput, goodput, several, long, text, apps, where, start)
}
# What `make bench` asks where there is no GPU: the built-in model, few requests. The contenders run together where the
# memory holds this many.
_ON_CPU = ("burst", "latency", "throughput", "several", "text")
_ROOM_FOR = 4
_CPU_SCOPE = Scope(tokens=32, repetitions=2, seconds=4.0, waves=3, clients=(1, 4))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    own, shared = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = _parser()
    options = parser.parse_args(own)
    ending.in_order_by_sigterm()
    try:
        return _measure(options, argv, tuple(shared))
    except (ValueError, DiedError) as error:
        parser.error(str(error))
    except OnecardError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _measure(options: argparse.Namespace, argv: Sequence[str], shared: tuple[str, ...]) -> int:
    setting = _setting(options, shared)
    plan, on_cpu = setting.prepared.plan, setting.prepared.subject.profile.device == "cpu" and not options.url
    if on_cpu and setting.prepared.subject.hardware.ram_mib > _ROOM_FOR * plan.memory_mib.total:
        options.together = True  # on a machine with other work to do, only what is measured in turn can be compared
    scope = _scope(options, _CPU_SCOPE if on_cpu else Scope())
    questions = [QUESTIONS[name] for name in options.questions or (_ON_CPU if on_cpu else QUESTIONS)]
    folder = Path(tempfile.mkdtemp(prefix="onecard-bench-"))
    short = {str(setting.folder): setting.folder.name, sys.executable: "python", str(folder): "…"}
    short |= {str(path): path.name for path in (options.out, options.caches) if path}
    short |= {options.model: Path(options.model).name} if options.model else {}
    if options.url:
        model = options.model or first_model(options.url.rstrip("/"))
        settings = vars(scope)
    else:
        model = Path(plan.model).name
        kv_cache = {"kv_cache_mib": setting.kv_cache_bytes >> 20}
        settings = {"profile": plan.profile, **kv_cache, "together": options.together, **vars(scope)}
    file = options.out / f"speed-{options.label or _label(options, setting)}.json"
    book = Book(new_run(model, settings), file, short)
    book.run.command = book.shortened(["python", "-m", "benchmarks", *argv])
    own_caches = folder / "caches" if options.together or len(options.gpus) > 1 else None
    job = Job(questions, scope, setting, book, folder, options.caches or own_caches)
    book.say(f"logs are in {folder}")
    if options.url:
        contender = Contender(options.name or options.url, options.name or options.url)
        with closing(Generator(folder / "generator.log")) as generator:
            ask_url(job, contender, options.url.rstrip("/"), model, generator)
    else:
        _measure_contenders(job, options, on_cpu=on_cpu)
    if own_caches:
        shutil.rmtree(own_caches, ignore_errors=True)
    told = [(question.name, question.told) for question in questions]
    if start.QUESTION in questions and burst.QUESTION not in questions:
        told.append((burst.QUESTION.name, burst.QUESTION.told))
    sys.stdout.write(
        f"\n{model}: medians\n\n{table(book.run, told)}\n\nwritten to {file}; "
        "python -m benchmarks.readme puts it into the documents\n"
    )
    plot.try_to_plot(file)
    return 0


def _measure_contenders(job: Job, options: argparse.Namespace, *, on_cpu: bool) -> None:
    names = options.contenders or ("transformers,original,onecard" if on_cpu else "transformers,original,vllm,onecard")
    held = cores.parse(options.cores) if options.cores else {}
    asked = [contenders.parse(name, job.setting) for name in names.split(",")]
    asked = contenders.with_cores(asked, held.get("server"))
    run_all(job, asked, _places(options, asked, held), together=options.together)


def _setting(options: argparse.Namespace, shared: tuple[str, ...]) -> Setting:
    """The plan, of which the KV cache is taken. A server elsewhere needs none: then it is the demo model's."""
    kv = ("--kv-cache-memory-bytes", str(options.kv_cache_mib << 20)) if options.kv_cache_mib else ()
    profile, model = ("cpu", None) if options.url else (options.profile, options.model)
    prepared = prepare(profile, model, user_argv=(*shared, *kv))
    if not prepared.plan.fits:
        raise ValueError(
            f"{prepared.plan.model} does not fit with the profile {prepared.plan.profile}: {prepared.plan.reason}"
        )
    kv_cache_bytes = prepared.plan.memory_mib.kv_cache << 20
    folder, share = prepared.resolved.download(), options.gpu_memory_utilization
    return Setting(prepared, folder, kv_cache_bytes, shared, share, tuple(options.variant))


def _scope(options: argparse.Namespace, usual: Scope) -> Scope:
    given = {name: getattr(options, name) for name in vars(usual) if getattr(options, name) is not None}
    return Scope(**(vars(usual) | given))


def _places(options: argparse.Namespace, asked: Sequence[Contender], held: dict[str, int]) -> list[Place]:
    """One for each GPU. Cores are held where somebody asks for it, and always where GPUs are measured at the same time."""
    gpus: list[str | None] = [*options.gpus] or [None]
    hold = len(gpus) > 1 or bool(held) or any(each.cores for each in asked)
    most = max((each.cores or 0 for each in asked), default=0) or None
    shares = cores.share(cores.available(), len(gpus))
    return [
        Place(gpu, tuple(part), cores.divide(part, most, held.get("generator"), hold=hold).generator)
        for gpu, part in zip(gpus, shares, strict=True)
    ]


def _label(options: argparse.Namespace, setting: Setting) -> str:
    if options.url:
        name = options.name or options.url.partition("//")[2]
    else:
        gpus = setting.prepared.subject.hardware.gpus
        name = gpus[0].name if gpus and setting.prepared.subject.profile.device == "cuda" else "cpu"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def _variant(text: str) -> contenders.Variant:
    try:
        return contenders.variant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _question(name: str) -> str:
    if name not in QUESTIONS:
        raise argparse.ArgumentTypeError(f"there is no question {name!r}; there are {', '.join(QUESTIONS)}")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("questions", nargs="*", type=_question, metavar="QUESTION", help=", ".join(QUESTIONS))
    add("--profile", default="auto", help="as for `onecard serve`")
    add("--model", help="as for `onecard serve`; with --url, what that server calls it")
    add("--contenders", help=f"of {', '.join(contenders.TITLES)}; NAME@6 holds a server to 6 cores")
    add(
        "--variant",
        type=_variant,
        action="append",
        default=[],
        metavar="NAME=WORDS",
        help="what the contender onecard:NAME gets beside what all get: vLLM's arguments, after VARIABLE=VALUE words if any",
    )
    add("--url", help="an OpenAI-compatible server that runs already, as http://127.0.0.1:11434/v1")
    add("--name", help="what to call the server of --url")
    add("--cores", help="server=6 or server=6,generator=4: who runs on how many cores")
    add(
        "--gpus",
        type=lambda text: text.split(","),
        default=[],
        help="as 0,1: contenders spread over these GPUs, each with its share of the cores",
    )
    add("--together", action="store_true", help="all started at once, measured in turn; needs memory for all")
    add("--caches", type=Path, help="where each contender keeps what it compiles, for the next run too")
    add("--gpu-memory-utilization", type=float, help="for --together: each vLLM's share, as 0.15")
    add("--kv-cache-mib", type=int, help="the KV cache of each vLLM (default: the plan's)")
    add("--repetitions", type=int, help="of each measurement; medians are told (default 3)")
    add("--clients", type=lambda text: tuple(map(int, text.split(","))), help="default 1,4,16,64")
    add("--tokens", type=int, help="the length of every answer (default 128)")
    add("--seconds", type=float, help="one client's measurement (default 6)")
    add("--waves", type=int, help="rounds of many clients' measurement (default 4)")
    add("--first-token-ms", type=float, help="goodput's limit (default 500)")
    add("--per-token-ms", type=float, help="goodput's limit (default 50)")
    add("--label", help="the JSON is speed-LABEL.json (default: the GPU's name)")
    add("--out", type=Path, default=RESULTS, help="the folder of the JSON and the plot")
    return parser


if __name__ == "__main__":
    sys.exit(main())
