"""`python -m serving.guard.openapi`: docs/openapi.json, the description of what the guard lets through, made from its own
tables. vLLM's `/openapi.json`, which the guard closes, tells of routes and parameters that are not to be had here.

Not in it: what the plan decides (how many pictures, how long an answer), and parameters without a bound, which are
vLLM's to judge. tests/faults/test_openapi.py holds it against a running server.
"""

import json
import sys
from pathlib import Path
from typing import Any

from serving import __version__
from serving.guard.messages import MAX_MESSAGES, MAX_PARTS, MAX_PROMPTS, ROLES
from serving.guard.parameters import LISTS, LONGEST_TEXTS, MOST_BIASES, NUMBERS, WHOLE
from serving.guard.routes import OPEN, ROUTES
from serving.guard.structured import MAX_CHOICES, MAX_REGEX

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}


def document() -> dict[str, Any]:
    """The description, in OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "onecard",
            "version": __version__,
            "description": "A vision-language model on one GPU, by OpenAI's API. Errors have OpenAI's shape throughout.",
        },
        "servers": [{"url": "http://localhost:8000"}],
        "security": [{}, {"key": []}],
        "paths": {path: _operations(path) for path in (*ROUTES, *OPEN)},
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "where keys are configured"}
            },
            "schemas": _schemas(),
        },
    }


def as_text() -> str:
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    FILE.write_text(as_text(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")


def _operations(path: str) -> Schema:
    methods = ROUTES.get(path, frozenset({"GET", "HEAD"}))
    return {method.lower(): _operation(path, method) for method in sorted(methods)}


def _operation(path: str, method: str) -> Schema:
    answer: Schema = {"description": _ANSWERS[path][0]}
    refused: Schema = {"description": "Why not."}
    if method != "HEAD":
        answer["content"] = _ANSWERS[path][1]
        refused["content"] = _json("Error")
    responses = {"200": answer, "4XX": refused, "503": refused | {"headers": {"Retry-After": {"schema": _WHOLE}}}}
    if path == "/ready":
        responses["503"] = answer | {"description": "Not yet, or no longer."}
    operation: Schema = {"operationId": method.lower() + path.replace("/", "_"), "responses": responses}
    if body := _BODIES.get(path):
        operation["requestBody"] = {"required": True, "content": body}
    if path in OPEN:
        operation["security"] = []
    return operation


def _json(name: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


# Not a schema of JSON: tools apply one to each event.
_EVENTS: Schema = {"text/event-stream": {}}
# What a route answers, and what it is asked with.
_ANSWERS: dict[str, tuple[str, Schema]] = {
    "/v1/chat/completions": ("The answer, or its pieces as events with `stream`.", _json("ChatCompletion") | _EVENTS),
    "/v1/completions": ("The text that goes on from the prompt.", _json("Completion") | _EVENTS),
    "/v1/models": ("What is served, by its names.", _json("Models")),
    "/ask": ("The answer to one question about one picture.", _json("Answer")),
    "/metrics": ("For Prometheus.", {"text/plain": {"schema": _TEXT}}),
    "/onecard/status": ("State, plan, measured memory, limits and queue.", _json("Status")),
    "/health": ("Somebody answers.", _json("Health")),
    "/ready": ("Questions are answered.", _json("Ready")),
}
_BODIES: dict[str, Schema] = {
    "/v1/chat/completions": _json("ChatRequest"),
    "/v1/completions": _json("CompletionRequest"),
    "/ask": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/AskForm"}}},
}


def _record(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def _list_of(items: Schema, most: int, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _parameters() -> dict[str, Schema]:
    """What both kinds of request take beside what they ask."""
    short = {name: {"type": "string", "maxLength": longest} for name, longest in LONGEST_TEXTS.items()}
    whole = {name: {"type": "integer", "minimum": least, "maximum": most} for name, (least, most) in WHOLE.items()}
    numbers = {name: {"type": "number", "minimum": least, "maximum": most} for name, (least, most) in NUMBERS.items()}
    texts = {
        name: _list_of({"type": "string", "maxLength": longest}, most)
        for name, (most, longest) in LISTS.items()
        if longest
    }
    bias = {"type": "object", "maxProperties": MOST_BIASES, "additionalProperties": {"type": "number"}}
    choice = _record({"choice": _list_of({"type": "string", "minLength": 1, "maxLength": 512}, MAX_CHOICES, 1)})
    regex = _record({"regex": {"type": "string", "maxLength": MAX_REGEX}})
    return {
        **short,
        **whole,
        **numbers,
        **texts,
        "max_tokens": {"type": "integer", "minimum": 1},
        "stream": _FLAG,
        "ignore_eos": _FLAG,
        "logit_bias": bias,
        "structured_outputs": {"oneOf": [_record({"json": _OBJECT}), choice, regex, _record({"json_object": _FLAG})]},
    }


def _schemas() -> dict[str, Schema]:
    url = _record({"url": {"type": "string", "description": "a data URL of a JPEG, PNG, WebP or GIF"}})
    text_part = _record({"type": {"const": "text"}, "text": _TEXT})
    picture_part = _record({"type": {"const": "image_url"}, "image_url": url})
    parts = _list_of({"oneOf": [text_part, picture_part]}, MAX_PARTS)
    content: Schema = {"oneOf": [_TEXT, parts]}
    message = _record({"role": {"type": "string", "enum": sorted(ROLES)}, "content": content})
    function = _record({"name": _TEXT}, {"description": _TEXT, "parameters": _OBJECT})
    tool = _record({"type": {"const": "function"}, "function": function})
    schema = _record({"type": {"const": "json_schema"}, "json_schema": _record({"name": _TEXT, "schema": _OBJECT})})
    plain = _record({"type": {"type": "string", "enum": ["text", "json_object"]}})
    prompt: Schema = {
        "oneOf": [_TEXT, _list_of(_TEXT, MAX_PROMPTS, 1), _list_of({"type": "integer", "minimum": 0}, 4096, 1)]
    }
    nullable: Schema = {"type": ["string", "null"]}
    choice = _record({"index": _WHOLE, "message": _record({"role": _TEXT}, {"content": nullable})})
    answered = {"id": _TEXT, "object": _TEXT, "created": _WHOLE, "model": _TEXT}
    usage = _record({"prompt_tokens": _WHOLE, "total_tokens": _WHOLE})
    return {
        "ChatRequest": _record(
            {"messages": _list_of(message, MAX_MESSAGES, 1)},
            _parameters()
            | {"max_completion_tokens": {"type": "integer", "minimum": 1}, "logprobs": _FLAG}
            | {"tools": _list_of(tool, LISTS["tools"][0]), "response_format": {"oneOf": [schema, plain]}},
        ),
        "CompletionRequest": _record(
            {"prompt": prompt}, _parameters() | {"logprobs": {"type": "integer", "minimum": 0, "maximum": 20}}
        ),
        "AskForm": _record({"image": {"type": "string", "format": "binary"}}, {"question": _TEXT}),
        "ChatCompletion": _record({**answered, "choices": {"type": "array", "items": choice}, "usage": usage}),
        "Completion": _record(
            {
                **answered,
                "choices": {"type": "array", "items": _record({"index": _WHOLE, "text": _TEXT})},
                "usage": usage,
            }
        ),
        "Models": _record(
            {"object": _TEXT, "data": {"type": "array", "items": _record({"id": _TEXT, "object": _TEXT})}}
        ),
        "Answer": _record({"response": _TEXT, "time_taken": {"type": "number"}, "success": _FLAG}),
        "Status": _record({"state": _TEXT, "plan": _OBJECT, "limits": _OBJECT, "queue": _OBJECT, "restarts": _WHOLE}),
        "Health": _record({"status": _TEXT}),
        "Ready": _record({"ready": _FLAG, "state": _TEXT}),
        "Error": _record({"error": _record({"message": _TEXT, "type": _TEXT, "param": nullable, "code": nullable})}),
    }


if __name__ == "__main__":
    main()
