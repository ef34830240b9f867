"""schemathesis makes requests of our own description, right ones and wrong ones, and holds the answers against it: no 500,
no hang, nothing but what is described, errors in OpenAI's shape."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.guard import openapi
from tests.conftest import Server

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "unsupported_method", "allow_header_conformance",
)  # fmt: skip
# A request that has to wait behind others, on two slow cores.
PATIENCE_S = 60


def described(server: Server, folder: Path) -> Path:
    """The description, narrowed to this server's models and to short answers: a random name of a model would end most
    requests at the door, and most of the rest would be spent on long answers."""
    document = openapi.document()
    names = server.get("/onecard/status").json()["models"]
    for name in ("ChatRequest", "CompletionRequest"):
        request: dict[str, Any] = document["components"]["schemas"][name]
        request["properties"]["model"] = {"type": "string", "enum": names}
        request["properties"]["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 4}
        request["required"].append("max_tokens")
    file = folder / "openapi.json"
    file.write_text(json.dumps(document))
    return file


def tried(server: Server, folder: Path, seconds: int) -> None:
    file = described(server, folder)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", server.url),
        *("--checks", ",".join(CHECKS), "--request-timeout", str(PATIENCE_S), "--max-time", str(seconds)),
        *("--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-shrink", "--warnings", "off"),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10 * seconds + 120)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.usefixtures("still_right")
def test_what_is_described_is_what_is_answered(server: Server, tmp_path: Path) -> None:
    tried(server, tmp_path, 10)


@pytest.mark.long
@pytest.mark.usefixtures("still_right")
def test_it_is_so_for_ten_minutes(server: Server, tmp_path: Path, still_right: Callable[[], None]) -> None:
    tried(server, tmp_path, 600)
    still_right()


def test_the_description_in_docs_is_that_of_the_code() -> None:
    assert openapi.FILE.read_text(encoding="utf-8") == openapi.as_text(), "python -m serving.guard.openapi"
