"""A JSON schema that a user hands in, as the `response_format` of a request."""

import json
from pathlib import Path
from typing import Any

from clients.errors import InputError


def response_format(given: str) -> dict[str, Any]:
    """`given` is the schema itself or the name of a file with it. Raises InputError for what is no JSON schema."""
    text = given
    if not given.lstrip().startswith("{"):
        try:
            text = Path(given).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--schema: {given} cannot be read ({error}).") from error
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise InputError(f"--schema: {given} is not JSON ({error}).") from error
    _check(schema)
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _check(schema: Any) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    if not isinstance(schema, dict):
        raise InputError('--schema: a JSON schema is an object, such as {"type": "object", "properties": {…}}.')
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "the whole"
        raise InputError(f"--schema: this is not a JSON schema: {error.message} (at {where}).") from error
    words = {"type", "properties", "anyOf", "oneOf", "allOf", "enum", "const", "$ref", "items"}
    if not words & schema.keys():
        raise InputError(f"--schema: this JSON asks for nothing: a schema has one of {', '.join(sorted(words))}.")
