"""Tables for the documents, in English and Chinese, from where their figures really live: `configs/`, the constants of
setup, and the JSON under `results/`. Pure but for reading those files; readme.py puts them in place.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from benchmarks import (
    cards_table,
    headline,
    image_path_table,
    memory_table,
    quality,
    quantize_table,
    speed,
    survival_table,
)
from benchmarks.markdown import NOT_MEASURED, Language, table
from serving.bootstrap import NEWEST, OLDEST
from serving.matrix import plans
from serving.planning.describe import describe_plan
from serving.planning.plan import Plan
from serving.planning.policy import wished
from serving.planning.profile import Profile, load_models, load_profiles
from serving.setup.choose import MIN_DRIVER, NEEDED_MIB

# The demo model's kinds of question (serving/demo/questions/), as a reader would call them.
KIND_NAMES: dict[str, dict[Language, str]] = {
    "shape": {"en": "which shapes", "zh": "是什么形状"},
    "color": {"en": "which colour", "zh": "是什么颜色"},
    "where": {"en": "where", "zh": "在哪里"},
    "count": {"en": "how many", "zh": "有几个"},
    "yes_no": {"en": "yes or no", "zh": "是非题"},
    "text": {"en": "what is printed", "zh": "写着什么"},
    "describe": {"en": "description", "zh": "一句话描述"},
    "json": {"en": "answer as JSON", "zh": "用 JSON 回答"},
    "absent": {"en": "about what is not there", "zh": "问图中没有的东西"},
    "tool": {"en": "tool call", "zh": "工具调用"},
    "several": {"en": "several pictures", "zh": "多张图片"},
    "follow_up": {"en": "second turn", "zh": "追问"},
    "chat": {"en": "no picture, small talk", "zh": "无图闲聊"},
}


class Score(BaseModel):
    right: int
    of: int


class Refused(BaseModel):
    refused: int
    of: int


class Wrongly(BaseModel):
    count: int
    of: int


class DemoResult(BaseModel):
    """`results/demo.json`: kind of question → language → how many were right."""

    date: str
    vllm: str
    command: str
    questions: int
    right: int
    unseen_phrasings: Score
    kinds: dict[str, dict[Language, Score]]
    photographs: Refused
    drawings_refused_wrongly: Wrongly


def needs(language: Language, _results: Path) -> str:
    """What must be there before the first `make serve`: the same constants that setup refuses by."""
    python = f"{'.'.join(map(str, OLDEST))}–{'.'.join(map(str, NEWEST))}"
    gpu, cpu = (f"{NEEDED_MIB[variant] / 1000:.0f} GB" for variant in ("gpu", "cpu"))
    head = {"en": ("", "with a GPU", "without"), "zh": ("", "有 GPU", "无 GPU")}[language]
    system = {"en": "Linux, or Windows with WSL2", "zh": "Linux，或 Windows 的 WSL2"}[language]
    names = {
        "en": ("system", "Python", "NVIDIA driver", "free disk"),
        "zh": ("系统", "Python", "NVIDIA 驱动", "磁盘空间"),
    }
    driver = {"en": f"{MIN_DRIVER} or newer", "zh": f"{MIN_DRIVER} 或更新"}[language]
    cells = ((system, system), (python, python), (driver, "–"), (gpu, cpu))
    return table(head, [(name, *pair) for name, pair in zip(names[language], cells, strict=True)])


def profiles(language: Language, _results: Path) -> str:
    """One row a shipped profile, cards first, the smaller one before the larger."""
    heads = {
        "en": ("card", "command", "model", "context", "largest picture", "pictures a request", "requests at once"),
        "zh": ("显卡", "命令", "模型", "上下文", "单张图片上限", "每次请求图片数", "并发请求数"),
    }
    shipped = sorted(load_profiles().items(), key=lambda each: each[1].gpu.memory_mib if each[1].gpu else 1 << 40)
    return table(heads[language], (_profile_row(name, profile, language) for name, profile in shipped))


def _profile_row(name: str, profile: Profile, language: Language) -> tuple[str, ...]:
    pixels = profile.limits.max_image_pixels
    return (
        profile.title if profile.gpu else {"en": "none (CPU)", "zh": "无（CPU）"}[language],
        f"`make serve PROFILE={name}`",
        f"`{profile.model}`",
        f"{profile.context:,}",
        {"en": f"{pixels / 1e6:.2f} MP", "zh": f"{pixels / 1e4:.0f} 万像素"}[language],
        str(profile.limits.max_images_per_request),
        str(profile.engine_args.get("max_num_seqs") or wished(profile.policy, pixels).max_num_seqs),
    )


def models(language: Language, _results: Path) -> str:
    """One row a shipped model: what to say after MODEL=, and what is then downloaded."""
    heads = {"en": ("model", "source", "licence"), "zh": ("模型", "来源", "许可证")}
    built_in = {"en": "comes with onecard", "zh": "随 onecard 附带"}[language]
    rows = ((f"`{name}`", model.source.hub or built_in, model.source.licence) for name, model in load_models().items())
    return table(heads[language], rows)


def fits(language: Language, _results: Path) -> str:
    """Models down, one card of each size across: thousands of KV tokens, as `onecard plan --matrix` has them."""
    cards = {"rtx4060": "8 GB", "rtx3060": "12 GB", "rtx4060ti": "16 GB", "rtx4090": "24 GB", "rtx5090": "32 GB"}
    cells = {(plan.model, plan.profile): plan for plan in plans() if plan.profile in cards}
    models = dict.fromkeys(model for model, _ in cells)
    head = [{"en": "model", "zh": "模型"}[language], *(f"{size} (`{card}`)" for card, size in cards.items())]
    return table(head, [(f"`{model}`", *(_tokens(cells[model, card]) for card in cards)) for model in models])


def _tokens(plan: Plan) -> str:
    if not plan.fits:
        return "–"
    return f"{plan.capacity.kv_tokens / 1000:.0f}k" + ("*" if plan.given_up else "")


def plan(_language: Language, _results: Path) -> str:
    """How `onecard plan` of the headline's card begins: the memory, and what it holds."""
    model = load_profiles()[headline.CARD].model
    planned = next(each for each in plans() if (each.profile, each.model) == (headline.CARD, model))
    memory, _, rest = describe_plan(planned).partition("KV cache: ")
    return f"```\n{memory}KV cache: {rest.splitlines()[0]}\n```"


def score(language: Language, results: Path) -> str:
    """How many questions the demo model answered rightly, and by what that was measured; what `results/demo.json` says."""
    if (result := _demo(results)) is None:
        return NOT_MEASURED[language]
    right, share = f"{result.right:,}", _percent(result.right, result.questions)
    photographs, drawings = result.photographs, result.drawings_refused_wrongly
    unseen = f"{result.unseen_phrasings.right} / {result.unseen_phrasings.of}"
    said = {
        "en": f"{right} of {result.questions:,} held-out questions right ({share}), measured on {result.date} with vLLM "
        f"{result.vllm} by `{result.command}`. Fonts, textures and seeds were unseen in training; of questions that were "
        f"also phrased as never there, {unseen} were right. "
        f"Photographs recognised as such: {photographs.refused} of {photographs.of}; "
        f"drawings taken for one: {drawings.count} of {drawings.of}.",
        "zh": f"{result.questions:,} 道未见过的题目中答对 {right} 道（{share}），{result.date} 用 vLLM {result.vllm} 测得，"
        f"命令为 `{result.command}`。字体、纹理和随机种子都没有在训练中出现过；换成训练中没有的问法，答对 {unseen}。"
        f"{photographs.of} 张照片认出了 {photographs.refused} 张；"
        f"{drawings.of} 张图形中，误当成照片的有 {drawings.count} 张。",
    }
    return said[language]


def demo(language: Language, results: Path) -> str:
    """The same, and its accuracy for each kind of question and each language."""
    if (result := _demo(results)) is None:
        return NOT_MEASURED[language]
    heads = {"en": ("question", "in English", "in Chinese"), "zh": ("问题类型", "英文提问", "中文提问")}
    rows = (
        (KIND_NAMES.get(kind, {language: kind})[language], *(_score(scores.get(each)) for each in ("en", "zh")))
        for kind, scores in result.kinds.items()
    )
    return f"{score(language, results)}\n\n{table(heads[language], rows)}"


def _demo(results: Path) -> DemoResult | None:
    file = results / "demo.json"
    return DemoResult.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None


class ServeResult(BaseModel):
    """`results/serve-*.json`: one start of a server on a machine, and what it answered. `right` is None for noise."""

    date: str
    machine: str
    vllm: str
    model: str
    command: str
    ready_s: float
    answers: list[dict[str, str | float]]
    right: int | None


def tested(language: Language, results: Path) -> str:
    """What was run on which GPU: one row a file `results/serve-*.json`."""
    heads = {
        "en": ("machine", "vLLM", "what was run", "ready after", "answers"),
        "zh": ("机器", "vLLM", "运行了什么", "就绪用时", "回答"),
    }
    noise = {"en": "answers (noise: random weights)", "zh": "有回答（随机权重，内容无意义）"}[language]
    right = {"en": "{} of {} right", "zh": "{} 个对，共 {} 个"}[language]
    runs = [
        ServeResult.model_validate_json(file.read_text(encoding="utf-8"))
        for file in sorted(results.glob("serve-*.json"))
    ]
    rows = (
        (
            f"{run.machine}, {run.date}",
            run.vllm,
            f"`{run.command}`",
            f"{run.ready_s:.0f} s",
            noise if run.right is None else right.format(run.right, len(run.answers)),
        )
        for run in runs
    )
    return table(heads[language], rows)


class SleepResult(BaseModel):
    """`results/sleep-*.json`, as sleep.py writes it: what a sleep gave back, and what it took."""

    date: str
    gpu: str
    awake_mib: float
    asleep_mib: float
    given_back_mib: float
    left_mib: float
    sleep_s: float
    waking_answer_s: float
    awake_answer_s: float
    command: list[str]


def sleeping(results: Path) -> str:
    """What sleep gives back and how long it takes, a row a card."""
    heads = ("card", "awake", "given back", "of ours left", "asleep after", "the answer that wakes it", "awake")
    runs = [
        SleepResult.model_validate_json(file.read_text(encoding="utf-8"))
        for file in sorted(results.glob("sleep-*.json"))
    ]
    rows = (
        (
            f"{run.gpu}, {run.date}, `{' '.join(run.command)}`",
            *(f"{mib:,.0f} MiB" for mib in (run.awake_mib, run.given_back_mib, run.left_mib)),
            *(f"{seconds:.2g} s" for seconds in (run.sleep_s, run.waking_answer_s, run.awake_answer_s)),
        )
        for run in runs
    )
    return table(heads, rows)


def _score(score: Score | None) -> str:
    return "–" if score is None or not score.of else f"{_percent(score.right, score.of)} ({score.right}/{score.of})"


def _percent(part: int, whole: int) -> str:
    """Rounded down to a tenth: 97.99% must not read as 98."""
    return f"{part * 1000 // whole / 10:.1f}%"


TABLES: dict[str, Callable[[Language, Path], str]] = {
    "needs": needs,
    "profiles": profiles,
    "models": models,
    "fits": fits,
    "plan": plan,
    "headline": lambda language, results: headline.measured(language, results, table),
    "score": score,
    "demo": demo,
    "tested": tested,
    "quality": lambda _language, results: quality.measured(results, table),
    "quantized": lambda _language, results: quantize_table.measured(results),
    "speed": lambda language, results: speed.measured(language, results, table),
    "pictures": lambda language, results: image_path_table.measured(language, results, table),
    "memory": lambda language, results: memory_table.measured(language, results, table),
    "survival": lambda language, results: survival_table.measured(language, results, table),
    "cards": lambda _language, results: cards_table.measured(results),
    "sleep": lambda _language, results: sleeping(results),
    "predicted": lambda language, results: speed.predicted(language, results, table),
}
