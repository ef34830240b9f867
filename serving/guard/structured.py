"""JSON schemas, regular expressions and choices that an answer must follow: bounded before vLLM compiles them.

A grammar is compiled in a thread of vLLM's that nothing can stop, and an automaton may be exponential in its source.
"""

import re
from typing import Any

from pydantic_core import from_json, to_json

from serving.guard.refusal import RefusalError

MAX_SCHEMA_BYTES = 32 * 1024
MAX_SCHEMA_DEPTH = 16
MAX_SCHEMA_NODES = 1024
MAX_REGEX = 512
MAX_REPEAT = 256
MAX_CHOICES = 256
_MAX_ITEMS = 1024
_FORMS = frozenset({"json", "regex", "choice", "json_object"})
_SWITCHES = frozenset({"disable_any_whitespace", "disable_additional_properties"})
# How often something may be repeated in words of the schema; each is unrolled into the automaton.
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_REPEAT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_QUANTIFIER = re.compile(r"[*+]|\{\d*,?\d*\}")


def check_structured(request: dict[str, Any]) -> None:
    """Raises RefusalError for a constraint that is of no known form or could take long to compile."""
    format_ = request.get("response_format")
    if format_ is not None:
        _check_format(format_)
    outputs = request.get("structured_outputs")
    if outputs is not None:
        _check_outputs(outputs)
    for tool in request.get("tools") or []:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            raise RefusalError("Each of `tools` needs a `function`.", param="tools")
        if (parameters := function.get("parameters")) is not None:
            _check_schema(parameters, "tools")


def _check_format(value: Any) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "json_schema":
        schema = value.get("json_schema")
        named = isinstance(schema, dict) and isinstance(schema.get("name"), str)
        if not named or not isinstance(schema.get("schema"), dict):
            raise RefusalError(
                "`response_format.json_schema` must hold a `name` and a `schema`.", param="response_format"
            )
        _check_schema(schema["schema"], "response_format")
    elif kind not in ("text", "json_object"):
        raise RefusalError("`response_format.type` must be text, json_object or json_schema.", param="response_format")


def _check_outputs(value: Any) -> None:
    param = "structured_outputs"
    given = {key for key, each in value.items() if each is not None} if isinstance(value, dict) else set()
    forms = given - _SWITCHES
    if len(forms) != 1 or not forms <= _FORMS:
        raise RefusalError(f"`{param}` takes exactly one of {', '.join(sorted(_FORMS))}.", param=param)
    if "json" in forms:
        schema = value["json"]
        if isinstance(schema, str):
            try:
                schema = from_json(schema)
            except ValueError as error:
                raise RefusalError(f"`{param}.json` is not valid JSON.", param=param) from error
        _check_schema(schema, param)
    elif "regex" in forms:
        _check_regex(value["regex"], param)
    elif "choice" in forms:
        choices = value["choice"]
        if not isinstance(choices, list) or not 1 <= len(choices) <= MAX_CHOICES:
            raise RefusalError(f"`{param}.choice` must be a list of 1 to {MAX_CHOICES} texts.", param=param)
        if any(not isinstance(each, str) or not 1 <= len(each) <= 512 for each in choices):
            raise RefusalError(f"`{param}.choice` must hold texts of 1 to 512 characters.", param=param)


def _check_schema(schema: Any, param: str) -> None:
    if not isinstance(schema, dict | bool) or len(to_json(schema)) > MAX_SCHEMA_BYTES:
        raise RefusalError(f"A JSON schema must be an object of at most {MAX_SCHEMA_BYTES // 1024} KiB.", param=param)
    rest: list[tuple[Any, int]] = [(schema, 1)]
    nodes = 0
    while rest:
        each, depth = rest.pop()
        nodes += 1
        if depth > 2 * MAX_SCHEMA_DEPTH or nodes > MAX_SCHEMA_NODES:  # a level of a schema is two of its JSON
            raise RefusalError(
                f"The JSON schema is too large: {MAX_SCHEMA_DEPTH} levels and {MAX_SCHEMA_NODES} values are taken.",
                param=param,
            )
        if isinstance(each, dict):
            _check_keywords(each, param)
            rest += [(value, depth + 1) for value in each.values()]
        elif isinstance(each, list):
            rest += [(value, depth + 1) for value in each]


def _check_keywords(schema: dict[str, Any], param: str) -> None:
    for word in _COUNTS:
        count = schema.get(word)
        if isinstance(count, int | float) and count > _MAX_ITEMS:
            raise RefusalError(f"`{word}` of the JSON schema is above {_MAX_ITEMS}.", param=param)
    if isinstance(pattern := schema.get("pattern"), str):
        _check_regex(pattern, param)
    patterns = schema.get("patternProperties")
    for each in patterns if isinstance(patterns, dict) else ():
        _check_regex(each, param)
    reference = schema.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise RefusalError("`$ref` of the JSON schema must stay inside it.", param=param)


def _check_regex(pattern: Any, param: str) -> None:
    """Bounds length and repetition. A repetition inside a repetition is what makes automata explode."""
    if not isinstance(pattern, str) or not pattern or len(pattern) > MAX_REGEX or "\0" in pattern:
        raise RefusalError(f"A regular expression must be text of at most {MAX_REGEX} characters.", param=param)
    unfolded = 1
    for match in _REPEAT.finditer(pattern):
        most = max((int(number) for number in (match[1], match[3]) if number and len(number) < 9), default=0)
        if most > MAX_REPEAT or any(len(number) >= 9 for number in (match[1], match[3])):
            raise RefusalError(f"A regular expression may repeat at most {MAX_REPEAT} times.", param=param)
        unfolded *= max(1, most)
        if unfolded > 16 * MAX_REPEAT:
            raise RefusalError("The regular expression's repetitions multiply too far.", param=param)
    if _nested_repetition(pattern):
        raise RefusalError(
            "A regular expression may not repeat a group that repeats in itself twice over.", param=param
        )
    try:
        re.compile(pattern)  # Python's own reads any; what its dialect lacks, vLLM refuses
    except (re.error, OverflowError, RecursionError) as error:
        raise RefusalError(f"The regular expression cannot be read: {error}.", param=param) from error


def _nested_repetition(pattern: str) -> bool:
    """Whether repetitions lie more than two deep, as in ((a*)*)*."""
    depths = [0]
    position = 0
    closed = 0  # repetitions inside of what was just read
    while position < len(pattern):
        character = pattern[position]
        quantifier = _QUANTIFIER.match(pattern, position)
        if character == "\\":
            position, closed = position + 2, 0
        elif character == "[":
            end = pattern.find("]", position + 2)
            position, closed = (end if end > 0 else len(pattern)) + 1, 0
        elif character == "(":
            depths.append(0)
            position, closed = position + 1, 0
        elif character == ")" and len(depths) > 1:
            closed = depths.pop()
            depths[-1] = max(depths[-1], closed)
            position += 1
        elif quantifier:
            closed += 1
            depths[-1] = max(depths[-1], closed)
            position = quantifier.end()
        else:
            position, closed = position + 1, 0
        if max(depths[-1], closed) > 2:
            return True
    return False
