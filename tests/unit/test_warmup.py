"""What is asked before anyone else is let in."""

import asyncio
import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serving.engine.warmup import warm_up
from serving.prepare import prepare


class Recorder:
    """Answers every chat request with `status` and keeps it; `most` is how many were on their way at once."""

    def __init__(self, status: int = 200, image_tokens: int = 90) -> None:
        self.status = status
        self.image_tokens = image_tokens
        self.asked: list[dict[str, Any]] = []
        self.most = self._now = 0
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> JSONResponse:
        self._now += 1
        self.most = max(self.most, self._now)
        body = await request.json()
        self.asked.append(body)
        pictures = sum(part["type"] == "image_url" for message in body["messages"] for part in message["content"])
        await asyncio.sleep(0)
        self._now -= 1
        usage = {"prompt_tokens": 20 + pictures * self.image_tokens}
        return JSONResponse({"usage": usage}, status_code=self.status)

    def sizes(self) -> set[tuple[int, int]]:
        parts = (part for body in self.asked for message in body["messages"] for part in message["content"])
        urls = (part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        return {Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls}


def warmed(profile: str, recorder: Recorder) -> dict[str, float]:
    async def run() -> dict[str, float]:
        transport = httpx.ASGITransport(recorder.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://onecard") as client:
            return await warm_up(client, "model", prepare(profile, None).plan)

    return asyncio.run(run())


def test_a_gpu_sees_every_kind_of_request_alone_and_as_many_as_can_run_at_once() -> None:
    recorder = Recorder()
    took = warmed("rtx3060", recorder)
    plan = prepare("rtx3060", None).plan
    assert recorder.most == plan.capacity.max_num_seqs
    assert {"warmup_text_s", "warmup_image_s", "warmup_16_at_once_s", "warmup_long_s"} <= took.keys()
    areas = sorted(width * height for width, height in recorder.sizes())
    assert areas[-2] == pytest.approx(plan.limits.max_image_pixels, rel=0.01)
    assert areas[-1] > plan.limits.max_image_pixels  # one that has to be shrunk
    assert areas[0] == pytest.approx(plan.limits.max_image_pixels / 16, rel=0.01)
    assert any("response_format" in body for body in recorder.asked)
    assert any("logprobs" in body for body in recorder.asked)


def test_what_takes_longest_to_prepare_is_waited_for_beside_the_rest_and_ends_with_it() -> None:
    class Grammars(Recorder):
        """Answers a request with a grammar once everything else was asked."""

        async def _answer(self, request: Request) -> JSONResponse:
            body = await request.json()
            if "response_format" in body:
                while not any(len(str(asked)) > 10_000 and "word word" in str(asked) for asked in self.asked):
                    await asyncio.sleep(0.01)
            return await super()._answer(request)

    recorder = Grammars()
    assert "warmup_grammar_s" in warmed("rtx3060", recorder)
    assert "response_format" in recorder.asked[-1]

    class Failing(Grammars):
        async def _answer(self, request: Request) -> JSONResponse:
            self.status = 500 if "top_logprobs" in await request.json() else 200
            return await super()._answer(request)

    with pytest.raises(RuntimeError, match="500"):
        warmed("rtx3060", Failing())


def test_a_cpu_compiles_nothing_and_is_asked_twice() -> None:
    recorder = Recorder()
    assert set(warmed("cpu", recorder)) == {"warmup_text_s", "warmup_image_s"}
    assert len(recorder.asked) == 2


def test_an_answer_that_is_none_is_an_error_with_its_text() -> None:
    with pytest.raises(RuntimeError, match="500"):
        warmed("cpu", Recorder(status=500))


def test_a_picture_that_is_not_shrunk_to_what_is_planned_is_never_served() -> None:
    assert warmed("cpu", Recorder(image_tokens=102))  # 100, its beginning and its end
    with pytest.raises(RuntimeError, match="became 300 tokens, and 100 are planned"):
        warmed("cpu", Recorder(image_tokens=300))
