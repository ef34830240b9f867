"""One JSON object on stdout, as every command with `--json` prints it."""

import json

import typer


def print_json(value: object) -> None:
    """Indented, and with every character as itself."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
