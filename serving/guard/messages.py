"""Checks the messages of a chat request and the prompt of a completion: they are counted, bounded, and must not contain the
model's special tokens for pictures. Pictures are sized by their headers; nothing is decoded or fetched."""

import json
from dataclasses import dataclass
from typing import Any

from serving.guard.pictures import PictureCost, check_url, data_url_pixels
from serving.guard.refusal import RefusalError

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_PICTURE_PARTS = frozenset({"image_url", "input_image"})
# Where a part has one of these, Qwen-VL's chat templates put a picture's marks in its place, whatever its type and the value.
_TAKEN_FOR_PICTURES = frozenset({"image", "video"})
MAX_MESSAGES = 1024
MAX_PARTS = 1024
MAX_PROMPTS = 8
# Qwen-VL's marks. In a text they would stand for a picture that is not there.
_MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
_ASCII_A_TOKEN = 3


@dataclass(frozen=True)
class PictureRules:
    most: int
    cost: PictureCost
    allow_web: bool


@dataclass(frozen=True)
class Pictures:
    """The pictures of a request: how many, their tokens in the prompt, and those that their URLs would take as texts."""

    count: int = 0
    tokens: int = 0
    as_texts: int = 0


def check_messages(request: dict[str, Any], rules: PictureRules) -> Pictures:
    """Checks every message of a chat request. Raises RefusalError."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusalError("`messages` must be a list with at least one message.", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise RefusalError(f"More than {MAX_MESSAGES} messages: send the last ones.", param="messages")
    urls: list[str] = []
    parts = 0
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise RefusalError(
                f"`messages[{number}].role` must be one of {', '.join(sorted(ROLES))}.", param="messages"
            )
        content = message.get("content")
        if isinstance(content, list):
            parts += len(content)
            if parts > MAX_PARTS:
                raise RefusalError(f"More than {MAX_PARTS} parts in one request.", param="messages")
            urls += _part_urls(content, number, rules)
        elif not isinstance(content, str | None):
            raise RefusalError(f"`messages[{number}].content` must be text or a list of parts.", param="messages")
        _check_calls(message.get("tool_calls"))
    if len(urls) > rules.most:
        raise RefusalError(
            f"The request has {len(urls)} pictures; this profile takes {rules.most}.",
            param="messages",
            code="too_many_images",
        )
    if urls and request.get("truncate_prompt_tokens") is not None:
        raise RefusalError(
            "`truncate_prompt_tokens` is not taken beside pictures: it could cut one in two.",
            param="truncate_prompt_tokens",
        )
    # Counted before the first header is read.
    data = [url for url in urls if url[:5].lower() == "data:"]
    tokens = (
        sum(rules.cost.tokens(data_url_pixels(url)) for url in data) + (len(urls) - len(data)) * rules.cost.unknown()
    )
    return Pictures(len(urls), tokens, sum(map(_estimate, urls)))


def _part_urls(content: list[Any], number: int, rules: PictureRules) -> list[str]:
    """The pictures among a message's parts."""
    urls: list[str] = []
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise RefusalError(f"Each part of `messages[{number}]` needs a `type`.", param="messages")
        if part.get("uuid") is not None:  # vLLM goes by the other keys of such a part: its text may be a picture
            raise RefusalError(
                "`uuid` is not taken here: others' pictures could be passed off under it.",
                param="messages",
                code="forbidden_parameter",
            )
        if kind in _TEXT_PARTS:
            text = part.get(_TEXT_PARTS[kind])
            if not isinstance(text, str):
                raise RefusalError(f"A text part of `messages[{number}]` has no text.", param="messages")
            if found := _TAKEN_FOR_PICTURES & part.keys():
                raise RefusalError(
                    f"A text part of `messages[{number}]` cannot have `{min(found)}`: a picture is a part of its own.",
                    param="messages",
                )
            texts.append(text)
        elif kind in _PICTURE_PARTS:
            image = part.get("image_url")
            if kind == "image_url":  # `input_image` has the URL itself there
                image = image.get("url") if isinstance(image, dict) else None
            urls.append(check_url(image, allow_web=rules.allow_web))
        else:
            raise RefusalError(
                f"A part of `messages[{number}]` is of a type that this server does not take: text and image_url are.",
                param="messages",
                code="unsupported_part",
            )
    check_marks("".join(texts))  # the chat template puts nothing between a message's parts
    return urls


def _check_calls(calls: Any) -> None:
    """A call's arguments are JSON in a string. The chat template gets them parsed, so what was escaped there no longer is."""
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if not isinstance(arguments, str):
            continue
        try:
            read = json.loads(arguments)
        except json.JSONDecodeError:  # a model may have written it: vLLM makes it an empty object
            continue
        except (ValueError, RecursionError) as error:
            raise RefusalError("The arguments of a tool call cannot be read.", param="messages") from error
        check_texts(read)


def check_prompt(request: dict[str, Any], vision_token_ids: frozenset[int]) -> int:
    """Checks the prompt of a completion and returns how many prompts it holds. Raises RefusalError."""
    prompt = request.get("prompt")
    prompts = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else [prompt]
    if len(prompts) > MAX_PROMPTS:
        raise RefusalError(f"More than {MAX_PROMPTS} prompts in one request.", param="prompt")
    for each in prompts:
        ids = each if isinstance(each, list) and each else None
        if not isinstance(each, str) and not (ids and all(type(token) is int for token in ids)):
            raise RefusalError("`prompt` must be text or token ids, or a list of them.", param="prompt")
        if ids and vision_token_ids.intersection(ids):
            raise RefusalError("`prompt` holds token ids that stand for a picture.", param="prompt")
    return len(prompts)


def check_texts(value: Any) -> int:
    """Checks every text in a request or a part of it, wherever it is. Returns the tokens that all will take, an upper bound in
    most languages. Raises RefusalError."""
    tokens = 0
    rest: list[Any] = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, str):
            check_marks(each)
            tokens += _estimate(each)
        elif isinstance(each, dict):
            rest.extend(each)
            rest.extend(each.values())
        elif isinstance(each, list):
            rest.extend(each)
            tokens += len(each)  # token ids, or the chat template's words around a message
    return tokens


def check_marks(text: str) -> None:
    """Raises RefusalError if a text contains one of the model's special tokens for pictures."""
    if "<" in text and "<|" in text:  # one character is found far faster than two, and base64 has none
        for mark in _MARKS:
            if mark in text:
                raise RefusalError(
                    f"{mark} cannot stand in a text: it is the model's own mark for a picture.",
                    param="messages",
                    code="special_token",
                )


def _estimate(text: str) -> int:
    return len(text) // _ASCII_A_TOKEN + 1 if text.isascii() else len(text)
