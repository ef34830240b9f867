"""How long does each application take, from a person's files to an answer that was read? One client; the requests are those
of `onecard product`, `exercises` and `support`, asked again as often as they ask again.

The article that this project began with promises 5-8, 8-12 and 5-10 s. A model that was never trained, and the built-in one,
write copy of the wrong length: `usable` is 0 where no answer would do, and the seconds are what a person had waited for.
"""

import io
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from openai.types.chat import ChatCompletion
from PIL import Image, ImageDraw, ImageFont

from benchmarks.load import Figures
from benchmarks.pictures import jpeg
from benchmarks.questions import Case, Question
from benchmarks.target import Scope, Target
from clients import AnswerError, Client
from clients.apps import exercises, product, support
from clients.request import Request
from clients.task import Task, carry_out

_PAGE, _SCREEN = (1240, 1754), (1920, 1080)
_LESSON = "To add fractions, bring them to a common denominator, then add the numerators: 1/{} + 1/3 = {}/{}."
_ERROR = "Update failed (error 0x80070005). Access is denied."


def _product(number: int) -> Task[Any]:
    return product("保温杯", "厨房用品", [jpeg(2 * number + each, 1024, 768) for each in range(2)])


def _exercises(number: int) -> Task[Any]:
    lines = (_LESSON.format(n, 3 + n, 3 * n) for n in range(number + 2, number + 32))
    return exercises(_drawn(_PAGE, lines), topic="分数加法")


def _support(number: int) -> Task[Any]:
    return support(_drawn(_SCREEN, (f"Ticket {number}", _ERROR, "Try again     Cancel")), "更新一直失败，怎么办？")


APPLICATIONS: dict[str, Callable[[int], Task[Any]]] = {
    "product, two pictures of 1024×768": _product,
    "exercises, three from a page of 1240×1754": _exercises,
    "support, a screenshot of 1920×1080": _support,
}


def measure(target: Target, make: Callable[[int], Task[Any]]) -> Figures:
    """One task, about pictures that the server has not seen."""
    replies: list[ChatCompletion] = []
    url, model = target.server
    with Client(url, model=model) as client:
        client.limits  # noqa: B018 - asked for once in a client's life, and not what is measured

        def send(request: Request) -> ChatCompletion:
            replies.append(client.openai.chat.completions.create(**request))
            return replies[-1]

        task = make(target.unseen())
        began = time.monotonic()
        asked = client.messages(task.pictures, task.question, task.system)
        try:
            carry_out(task.steps({"model": model, "messages": asked}), send)
            usable = 1
        except AnswerError:
            usable = 0
        seconds = time.monotonic() - began
    usages = [reply.usage for reply in replies if reply.usage]
    return {
        "seconds": round(seconds, 3),
        "usable": usable,
        "requests": len(replies),
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        "answer_tokens": sum(usage.completion_tokens for usage in usages),
    }


def cases(_scope: Scope) -> list[Case]:
    return [Case(name, partial(measure, make=make)) for name, make in APPLICATIONS.items()]


def _drawn(size: tuple[int, int], lines: Any) -> bytes:
    """Printed lines, black on white, as a JPEG."""
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(size[0] // 48)
    ImageDraw.Draw(image).multiline_text((size[0] // 16, size[1] // 16), "\n".join(lines), "black", font, spacing=24)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


QUESTION = Question(
    "apps", "the three applications, one client", cases, told=("seconds", "requests", "usable", "answer_tokens")
)
