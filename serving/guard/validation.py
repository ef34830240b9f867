"""Checks requests for answers before vLLM sees them: they are parsed once, bounded, refused with the parameter's name, and
costed for admission. What is not checked here is left to vLLM."""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import metrics
from serving.guard.admission import Cost
from serving.guard.body import replay, whole_body
from serving.guard.elsewhere import OtherModelError
from serving.guard.facts import facts
from serving.guard.json_body import read_object
from serving.guard.messages import PictureRules, Pictures, check_messages, check_prompt, check_texts
from serving.guard.models import no_model
from serving.guard.parameters import bound_answer, check_parameters
from serving.guard.pictures import PictureCost
from serving.guard.refusal import RefusalError
from serving.guard.structured import check_structured
from serving.ipc.launch import Launch
from serving.metrics.request import notes_of

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
_VISION_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
# The refusals that concern a picture, by the code of the answer.
_OF_PICTURES = frozenset({"invalid_image", "too_many_images"})


class Validation:
    """Parses the body once; vLLM parses it again, with the values that had to be changed."""

    def __init__(self, app: ASGIApp, launch: Launch) -> None:
        self.app = app
        plan = launch.plan
        self._pictures = PictureRules(
            plan.limits.max_images_per_request, PictureCost.of(plan), allow_web=launch.allow_image_urls
        )
        self._models = frozenset(launch.model_names)
        self._others = frozenset(name for other in launch.others for name in other.names)
        self._default_max_tokens = launch.default_max_tokens
        override = plan.engine_args.get("override_generation_config", {}).get("max_new_tokens")
        self._largest_max_tokens = min(plan.capacity.max_model_len, override or plan.capacity.max_model_len)
        self._vision_ids = _vision_token_ids(launch.model_folder)
        self._salt_key = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in (CHAT, COMPLETIONS):
            await self.app(scope, receive, send)
            return
        try:
            body, cost = self._checked(scope, await whole_body(receive))
        except RefusalError as refusal:
            if refusal.code in _OF_PICTURES:
                metrics.record_image_refused(refusal.code)
            await refusal.response()(scope, receive, send)
            return
        facts(scope).cost = cost
        scope = {**scope, "headers": _with_length(scope["headers"], len(body))}
        await self.app(scope, replay(body, receive), send)

    def _checked(self, scope: Scope, body: bytes) -> tuple[bytes, Cost]:
        """The body for vLLM, and what serving it will cost. Raises RefusalError."""
        request = read_object(body)
        check_parameters(request)
        self._check_model(request)
        check_structured(request)
        answer, changes = bound_answer(request, self._default_max_tokens, self._largest_max_tokens)
        prompt_tokens = check_texts(request)
        prompts, pictures = 1, Pictures()
        if scope["path"] == CHAT:
            pictures = check_messages(request, self._pictures)
            notes_of(scope).images = pictures.count
            prompt_tokens += pictures.tokens - pictures.as_texts
        else:
            prompts = check_prompt(request, self._vision_ids)
        answers = prompts * int(request.get("n") or 1)
        if key := facts(scope).key:
            # Lest one key find out by timing what another has in the prefix cache.
            changes["cache_salt"] = hashlib.blake2b(key.encode(), key=self._salt_key, digest_size=16).hexdigest()
        cost = Cost(prompt_tokens + answers * answer, pictures.tokens, prompt_tokens, answers)
        return _changed(body, changes), cost

    def _check_model(self, request: dict[str, Any]) -> None:
        model = request.get("model")
        if model in self._others:
            raise OtherModelError
        if model is not None and model not in self._models:
            raise no_model(model, self._models | self._others)


def _changed(body: bytes, changes: dict[str, Any]) -> bytes:
    """The body, which has a value at least, with these values appended, which override its own: of a repeated name, every JSON
    parser used here takes the last value. Serializing megabytes of base64 again would take longer than everything else, and
    copying them twice would hold everyone up."""
    if not changes:
        return body
    end = body.rindex(b"}")
    return b"".join((memoryview(body)[:end], b",", to_json(changes)[1:]))


def _vision_token_ids(model_folder: Path) -> frozenset[int]:
    """The ids of the model's special tokens for pictures, from its config."""
    try:
        config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    except OSError:  # a launch without a checkpoint: there is nothing to protect
        return frozenset()
    return frozenset(config[name] for name in _VISION_IDS if isinstance(config.get(name), int))


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]
