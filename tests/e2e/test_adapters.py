"""LoRA adapters on a real vLLM: each is a model of its own name, and the model itself answers as before."""

from pathlib import Path

import openai
import pytest

from tests.adapter import write_adapter
from tests.conftest import start_server

QUESTION = "Which shapes do you know?"


@pytest.mark.long
def test_each_adapter_answers_under_its_name_and_changes_nobody_elses_answers(tmp_path: Path) -> None:
    write_adapter(tmp_path / "same")
    write_adapter(tmp_path / "other", rank=8, modules=("q_proj", "v_proj", "down_proj"), strength=5.0)
    server = start_server(tmp_path, "--", "--lora-modules", f"same={tmp_path}/same", f"other={tmp_path}/other")
    try:
        server.wait_until_ready()
        with server.openai() as client:
            assert {"demo", "same", "other"} <= {model.id for model in client.models.list()}

            def answer(model: str) -> str | None:
                messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
                reply = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=16)
                return reply.choices[0].message.content

            alone = answer("demo")
            assert answer("same") == alone
            assert answer("other") != alone
            assert answer("demo") == alone
            with pytest.raises(openai.NotFoundError, match="other, same"):
                answer("third")
    finally:
        server.stop()
