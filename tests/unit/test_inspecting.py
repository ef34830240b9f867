"""What a model's class can do, vLLM finds out without another Python."""

from pathlib import Path
from typing import Any

import pytest
from vllm.model_executor.models import registry

from serving.engine.inspecting import inspect_models_here

ARCHITECTURE = "Qwen3VLForConditionalGeneration"


def test_a_class_is_inspected_without_another_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    monkeypatch.setattr(registry, "_SUBPROCESS_COMMAND", ["false"])
    monkeypatch.setattr(registry, "_run_in_subprocess", registry._run_in_subprocess)  # as it was, afterwards
    inspect_models_here()
    model = registry.ModelRegistry.models[ARCHITECTURE]
    found = model.inspect_model_cls()
    assert found.architecture == ARCHITECTURE
    assert found.supports_multimodal
    # The next start reads it from there, and so does an engine that is spawned.
    assert [file.suffix for file in (tmp_path / "modelinfos").iterdir()] == [".json"]
    monkeypatch.delattr(registry, "_run_in_subprocess")
    assert model.inspect_model_cls().supports_multimodal


def test_a_vllm_that_asks_in_another_way_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(fn: Any, timeout_s: float) -> None:
        """Takes more than what is to be run."""

    monkeypatch.setattr(registry, "_run_in_subprocess", other)
    inspect_models_here()
    assert registry._run_in_subprocess is other
    monkeypatch.delattr(registry, "_run_in_subprocess")
    inspect_models_here()
    assert not hasattr(registry, "_run_in_subprocess")
