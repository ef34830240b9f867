"""What an answer is held to, as the `response_format` of a request: a JSON schema that a user hands in, or a pydantic model."""

import json
from typing import Any

from pydantic import BaseModel

from clients.errors import InputError
from clients.places import place


def response_format(given: str) -> dict[str, Any]:
    """`given` is the schema itself or the name of a file with it. Raises InputError for what is no JSON schema."""
    text = given
    if not given.lstrip().startswith("{"):
        try:
            text = place(given).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InputError(
                f"--schema: {given} is neither a JSON schema, which begins with {{, nor a file that can be read ({why})."
            ) from error
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


def format_of(model: type[BaseModel]) -> dict[str, Any]:
    """The `response_format` that holds an answer to that pydantic model.

    With flexible white space (JSON's own) a model may write blanks until its room is up, and small ones do. So the server's
    llguidance is told the separators that `json.dumps` writes; servers with other grammars do not read that key.
    """
    separators = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    schema = {"x-guidance": separators, **model.model_json_schema()}
    return {"type": "json_schema", "json_schema": {"name": model.__name__, "schema": schema}}
