"""Speculative decoding: what an EAGLE3 head and its drafts take of the memory, which head is meant, and what is refused before
anything is loaded."""

import contextlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import CheckpointError, UsageError
from serving.ipc.launch import Launch
from serving.machine import hardware
from serving.models.architecture import read_shape
from serving.models.checkpoint import read_checkpoint
from serving.models.files import Folder
from serving.planning import memory
from serving.planning.describe import describe_plan, describe_steps
from serving.planning.heads import read_head
from serving.planning.memory import MEASURED, MIB, Load
from serving.planning.plan import Plan
from serving.planning.profile import shape_dir
from serving.planning.speculation import Head, Speculation
from serving.prepare import ServerOptions, make_launch, plan_again, prepare
from tests.eagle import DEMO, QWEN, write_config, write_head, write_headers


def asking(**given: Any) -> tuple[str, str]:
    return "--speculative-config", json.dumps({"method": "eagle3", "num_speculative_tokens": 3} | given)


def plan_with(
    head: Path | str, *more: str, profile: str = "rtx3060", target: str = "qwen3-vl-2b", **given: Any
) -> Plan:
    return prepare(profile, target, user_argv=(*asking(model=str(head), **given), *more)).plan


def sizes_of(folder: Path) -> Head:
    return read_head("it", str(folder), Folder(folder)).sizes


SHAPE_2B = shape_dir("qwen3-vl-2b")
assert SHAPE_2B is not None
CHECKPOINT = read_checkpoint(Folder(SHAPE_2B))
SHAPE = read_shape(CHECKPOINT.architecture, CHECKPOINT.config)
assert SHAPE is not None
TEXT = SHAPE.text
# Counted by hand, in llama_eagle3.py: the matrices, norms and output head at 16 bits, and 64 for each word's number.
FC, ATTENTION = 2048 * 3 * 2048, 2 * 2048 * (2048 + 1024 + 1024) + 2048 * 2048
FEED_FORWARD, NORMS, OUTPUT = 3 * 2048 * 6144, 4 * 2048, 32_000 * 2048
HEAD_BYTES = 2 * (FC + ATTENTION + FEED_FORWARD + NORMS + OUTPUT) + 8 * 32_000


@pytest.mark.parametrize("write", [write_config, write_headers])
def test_the_weights_of_a_head_are_those_that_vllm_holds(tmp_path: Path, write: Any) -> None:
    assert HEAD_BYTES == 273_950_720
    assert sizes_of(write(tmp_path, QWEN)).weights == HEAD_BYTES


def test_an_embedding_or_output_head_in_the_file_is_held_and_one_that_is_not_there_is_the_models(
    tmp_path: Path,
) -> None:
    embedding = 2 * 151_936 * 2048
    own = sizes_of(write_headers(tmp_path / "own", QWEN, "embed_tokens.weight"))
    assert own.weights == HEAD_BYTES + embedding
    whole = QWEN | {"draft_vocab_size": None}
    shared = sizes_of(write_headers(tmp_path / "shared", whole, without=("lm_head.weight", "d2t", "t2d")))
    assert shared.weights == HEAD_BYTES - 2 * OUTPUT - 8 * 32_000
    assert shared.draft_vocab_size == 151_936


def test_each_part_grows_by_what_the_head_and_its_drafts_take_of_it(tmp_path: Path) -> None:
    head = sizes_of(write_headers(tmp_path, QWEN))
    load = Load(max_num_seqs=32, max_num_batched_tokens=2048, image_tokens=1200, cudagraph_sizes=16)
    without, drafting = (
        memory.parts(SHAPE, 0, replace(load, speculation=each), MEASURED)
        for each in (Speculation(), Speculation(3, head))
    )
    assert drafting.weights - without.weights == HEAD_BYTES + 40_960 * 128 * 2  # and its table of positions
    # Every hidden state that it begins with, and a row of the sampler's scratch for each draft.
    assert drafting.buffers - without.buffers == 2048 * 2048 * 2 + (128 - 32) * 151_936 * 4
    # What it reads of three layers, the model's last hidden state, what `fc` makes of them, the token's embedding, and what
    # its layer holds.
    assert drafting.activations == 2048 * 2 * (3 * 2048 + 2048 + 2048 + 2048 + 3 * (6144 + 2048))
    # Each request has four rows of logits, while what the head reads waits.
    rows = 4 * 32 * 151_936 * (2 + 4 * 4)
    assert drafting.activations + drafting.logits == rows + 2048 * 2 * 3 * 2048
    # One layer for the first draft and one for each further one; and the logits of a batch, in 32,000 words and in all.
    graphs = 16 * 3 * MEASURED.graph_of_layer + 32 * 2 * (32_000 + 151_936)
    assert drafting.cuda_graphs - without.cuda_graphs == pytest.approx(graphs, abs=1)


_HEADS = st.builds(
    Head,
    text=st.builds(
        lambda layers, inner: replace(TEXT, layers=layers, kv_layers=layers, intermediate_size=inner),
        st.integers(1, 4), st.integers(256, 16_384),
    ),
    draft_vocab_size=st.integers(1, 151_936),
    hidden_states=st.integers(1, 6),
    weights=st.integers(0, 2**31),
)  # fmt: skip
_LOADS = st.builds(
    Load,
    max_num_seqs=st.integers(1, 512),
    max_num_batched_tokens=st.integers(512, 16_384),
    image_tokens=st.integers(0, 4096),
    cudagraph_sizes=st.integers(0, 64),
)


@given(_LOADS, _HEADS, st.integers(1, 8), st.booleans(), st.integers(0, 2**30), st.integers(0, 3))
def test_more_drafts_and_a_larger_head_never_need_less_memory(
    load: Load, head: Head, tokens: int, keeps: bool, heavier: int, more: int
) -> None:
    def total(speculation: Speculation) -> int:
        parts = memory.parts(SHAPE, 2**31, replace(load, speculation=speculation), MEASURED)
        assert min(parts.model_dump().values()) >= 0
        assert parts.total == sum(parts.model_dump().values())
        return parts.total

    guessed, drafted = Speculation(tokens), Speculation(tokens, head, keeps)
    larger = replace(head, weights=head.weights + heavier, hidden_states=head.hidden_states + more)
    assert total(Speculation()) <= total(guessed) <= total(drafted)
    assert total(drafted) <= total(replace(drafted, tokens=tokens + more))
    assert total(drafted) <= total(replace(drafted, head=larger))
    assert total(drafted) <= total(replace(drafted, keeps_logits=True))
    assert total(drafted) - total(Speculation()) == memory.cost_of_speculation(
        SHAPE, replace(load, speculation=drafted), MEASURED
    )


@given(st.integers(1, 8), st.integers(3_000, 40_000))
def test_with_drafts_a_card_holds_no_more_tokens_and_the_parts_sum_to_the_total(tokens: int, mib: int) -> None:
    size = json.dumps({"size": {"shortest_edge": 65_536, "longest_edge": 1_048_576}})
    fixed = (
        "--max-num-seqs",
        "16",
        "--max-model-len",
        "4096",
        "--max-num-batched-tokens",
        "2048",
        "--mm-processor-kwargs",
        size,
    )
    given = ("--speculative-config", json.dumps({"method": "ngram", "num_speculative_tokens": tokens}))
    plain, drafting = (
        prepare("rtx3060", "qwen3-vl-2b", gpu_memory_mib=mib, user_argv=(*fixed, *more)).plan for more in ((), given)
    )
    assert drafting.capacity.kv_tokens <= plain.capacity.kv_tokens
    parts = drafting.memory_mib.model_dump()
    assert parts.pop("total") == sum(parts.values())


def test_a_head_is_planned_and_named_and_off_where_nobody_asks_for_it(tmp_path: Path) -> None:
    head = write_headers(tmp_path / "mine", QWEN)
    plain, plan = prepare("rtx3060", "qwen3-vl-2b").plan, plan_with(head)
    assert plain.speculation is None
    assert "speculative_config" not in plain.engine_args
    assert plan.fits
    assert plan.speculation is not None
    assert (plan.speculation.head, plan.speculation.tokens) == ("mine", 3)
    assert plan.speculation.weights_mib == -(-HEAD_BYTES // MIB)
    assert plan.engine_args["speculative_config"]["model"] == str(head)
    # A token is kept in 29 layers instead of 28.
    assert plan.capacity.kv_tokens == (plan.memory_mib.kv_cache * MIB // (29 * 4096 * 16) - 1) * 16
    said = describe_plan(plan)
    assert "Speculation: the EAGLE3 head mine drafts 3 tokens a step" in said
    assert "(262 of them the head's weights) and 4 KiB of KV cache for each token" in said
    page = (Path(__file__).parents[2] / "docs" / "speculation.md").read_text("utf-8")
    mib, more = plain.memory_mib, plan.memory_mib
    for part in ("weights", "buffers", "activations", "fragmentation"):
        assert f"| {part} | {getattr(more, part) - getattr(mib, part)} MiB |" in page, part
    assert f"| CUDA graphs | {more.cuda_graphs - mib.cuda_graphs} MiB |" in page
    assert f"{plan.capacity.kv_tokens:,} tokens instead of {plain.capacity.kv_tokens:,}" in page


def test_the_plan_says_what_the_card_would_hold_without(tmp_path: Path) -> None:
    prepared = prepare("rtx3060", "qwen3-vl-2b", user_argv=asking(model=str(write_headers(tmp_path, QWEN))))
    user_args = {"speculative_config": dict(prepared.plan.engine_args["speculative_config"])}
    plain = prepare("rtx3060", "qwen3-vl-2b").plan
    more = plain.capacity.kv_tokens - prepared.plan.capacity.kv_tokens
    told = describe_steps(prepared.subject, prepared.plan, user_args)
    assert f"without --speculative-config       {plain.capacity.kv_tokens:,} KV tokens (+{more:,})" in told


def test_what_does_not_fit_with_a_head_is_told_that_it_would_without(tmp_path: Path) -> None:
    given = asking(model=str(write_headers(tmp_path, QWEN)))
    for mib in range(7_000, 8_200, 100):
        plan = prepare("rtx3060", "qwen3-vl-2b", gpu_memory_mib=mib, user_argv=(*given, "--max-model-len", "8192")).plan
        if not plan.fits and any("without --speculative-config fits" in each for each in plan.alternatives):
            return
    pytest.fail("nowhere between these sizes was it the head that was too much")


def test_graphs_are_those_of_steps_with_drafts(tmp_path: Path) -> None:
    plan = plan_with(write_headers(tmp_path, QWEN), "--max-num-seqs", "32")
    assert plan.compilation["cudagraph_capture_sizes"] == [
        4 * n for n in (*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32)
    ]


def test_a_head_that_knows_fewer_positions_than_a_conversation_has_gets_a_longer_table(tmp_path: Path) -> None:
    own = plan_with(write_headers(tmp_path / "own", QWEN))
    short = plan_with(write_headers(tmp_path / "short", QWEN | {"max_position_embeddings": 2048}))
    assert own.memory_mib.weights - short.memory_mib.weights == (40_960 - 8192) * 128 * 2 // MIB


@pytest.mark.parametrize(
    ("named", "positions"),
    [
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20]}}, 4 * 40_960),
        ({"rope_parameters": {"rope_theta": 5e6, "rope_type": "default", "mrope_section": [24, 20, 20]}}, 4 * 40_960),
        ({"rope_scaling": {"rope_type": "default"}}, 40_960),
    ],
)
def test_the_table_of_a_heads_positions_is_as_long_as_vllms(
    tmp_path: Path, named: dict[str, Any], positions: int
) -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope
    from vllm.transformers_utils.config import get_config

    head = write_headers(tmp_path, QWEN | named)
    config = get_config(head, trust_remote_code=False)
    with set_current_vllm_config(VllmConfig()):
        made = get_rope(128, config.max_position_embeddings, rope_parameters=config.rope_parameters)
    assert made.cos_sin_cache.shape == (positions, 128)
    assert memory.rotary_table(sizes_of(head).text) == positions * 128 * 2


def test_a_cache_of_eight_bits_keeps_the_heads_layer_so_too(tmp_path: Path) -> None:
    plan = plan_with(write_headers(tmp_path, QWEN), "--kv-cache-dtype", "fp8")
    assert plan.speculation is not None
    assert plan.speculation.kv_bytes_per_token == 2048


def test_guessing_from_the_text_takes_rows_of_logits_and_no_weights() -> None:
    given = ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}')
    plain, plan = prepare("rtx3060", "qwen3-vl-2b").plan, prepare("rtx3060", "qwen3-vl-2b", user_argv=given).plan
    assert plan.memory_mib.weights == plain.memory_mib.weights
    assert plan.memory_mib.logits > 4 * plain.memory_mib.logits
    assert "Speculation (ngram): 4 tokens a step are guessed from the text" in describe_plan(plan)
    suffix = prepare("rtx3060", "qwen3-vl-2b", user_argv=("--speculative-config", '{"method": "suffix"}')).plan
    assert suffix.speculation is not None
    assert suffix.speculation.tokens == 24  # vLLM's own default


def test_drafts_whose_logits_are_kept_are_planned_with_them(tmp_path: Path) -> None:
    head = write_headers(tmp_path, QWEN)
    plain, kept = plan_with(head), plan_with(head, draft_sample_method="probabilistic")
    assert kept.memory_mib.buffers - plain.memory_mib.buffers == pytest.approx(32 * 3 * 151_936 * 2 / MIB, abs=1)


def test_cards_that_share_a_server_each_have_a_part_of_the_head(tmp_path: Path) -> None:
    subject = prepare("rtx3060", "qwen3-vl-2b", user_argv=asking(model=str(write_headers(tmp_path, QWEN)))).subject
    given = {"speculative_config": {"method": "eagle3", "num_speculative_tokens": 3}}
    plan = replace(subject, tensor_parallel_size=2).plan(given)
    assert plan.speculation is not None
    assert plan.speculation.kv_bytes_per_token == 2048
    assert plan.speculation.weights_mib == -(-HEAD_BYTES // MIB)  # its `fc` is whole on each
    odd = write_config(tmp_path / "odd", QWEN | {"num_attention_heads": 15, "num_key_value_heads": 5})
    uneven = replace(subject, tensor_parallel_size=2, head=read_head("odd", str(odd), Folder(odd)))
    with pytest.raises(UsageError, match="the 15 heads of odd cannot be split over so many cards"):
        uneven.plan(given)


def model_file(folder: Path, *lines: str, eagle3: str | None = None) -> str:
    """A YAML file of the user's own for the demo model."""
    shipped = (Path(__file__).parents[2] / "configs" / "models" / "demo.yaml").read_text(encoding="utf-8")
    named = [f"eagle3: {{hub: {eagle3}, publisher: someone, licence: MIT}}"] if eagle3 else []
    file = folder / "mine.yaml"
    file.write_text("\n".join((shipped, *lines, *named)), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"hidden_size": 2560}, "trained for a model that is 2,560 wide .* and this one is 2,048 wide"),
        ({"vocab_size": 32_064}, "knows 32,064 words, and this one .* knows 151,936"),
        (
            {"eagle_aux_hidden_state_layer_ids": [2, 14]},
            "reads the hidden states of 3 layers, and this model of 28 .* 2, 14",
        ),
        ({"eagle_aux_hidden_state_layer_ids": [2, 14, 33]}, "hand out those of 2, 14, 33"),
    ],
)
def test_a_head_of_another_model_is_refused_by_what_differs(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plan_with(write_headers(tmp_path / "it", QWEN | changed))


def test_vllms_own_choice_of_layers_must_be_three_of_them(tmp_path: Path) -> None:
    """Of five layers it would read one three times, and vLLM dies at the first question."""
    with pytest.raises(
        UsageError, match="hidden states of 3 layers, and this model of 5 would hand out those of 2, 2, 2"
    ):
        plan_with(
            write_config(tmp_path, DEMO | {"eagle_aux_hidden_state_layer_ids": None}), profile="cpu", target="demo"
        )


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda it: it.mkdir(), "has no config.json"),
        (
            lambda it: write_config(it, QWEN | {"architectures": ["Qwen3VLForConditionalGeneration"]}),
            "is no EAGLE3 head",
        ),
        (lambda it: write_config(it, QWEN | {"architectures": None}), "is no EAGLE3 head"),
        (lambda it: write_config(it, QWEN | {"architectures": "LlamaForCausalLM"}), "is no EAGLE3 head"),
        (lambda it: write_headers(it, QWEN, without=("fc.weight",)), "its weights lack `fc.weight`"),
        (lambda it: write_config(it, QWEN | {"quantization_config": {"quant_method": "awq"}}), "a quantized head"),
        (lambda it: write_headers(it, QWEN, without=("d2t",)), "`d2t` and `lm_head.weight` have to say which"),
        (lambda it: write_headers(it, QWEN, without=("lm_head.weight",)), "drafts 32,000 of 151,936 words"),
        (lambda it: write_config(it, QWEN | {"hidden_size": "wide"}), "no usable `hidden_size`"),
        (
            lambda it: write_config(it, QWEN | {"eagle_aux_hidden_state_layer_ids": "all"}),
            "layers that it reads are 'all'",
        ),
        (lambda it: write_config(it, QWEN | {"draft_vocab_size": 200_000}), "drafts 200,000 of 151,936 words"),
    ],
)
def test_a_folder_that_is_no_head_is_refused_by_what_is_wrong(tmp_path: Path, write: Any, says: str) -> None:
    write(tmp_path / "it")
    with pytest.raises(CheckpointError, match=says):
        plan_with(tmp_path / "it")


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
)


@given(st.sampled_from([*DEMO, "num_aux_hidden_states", "eagle_config", "quantization_config"]), _ANYTHING)
def test_whatever_stands_in_a_heads_config_it_is_planned_or_refused_in_words(key: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(CheckpointError, UsageError):
        head = write_config(Path(folder), DEMO | {key: value})
        assert describe_plan(plan_with(head, profile="cpu", target="demo"))


def test_a_head_without_weights_is_planned_and_not_started(tmp_path: Path) -> None:
    head = write_config(tmp_path / "it", DEMO)
    prepared = prepare("cpu", "demo", user_argv=asking(model=str(head)))
    assert prepared.plan.fits
    with pytest.raises(CheckpointError, match="holds no weights of an EAGLE3 head"):
        make_launch(prepared, ServerOptions("127.0.0.1", 1))


def test_a_restart_plans_the_head_again_from_its_folder(tmp_path: Path) -> None:
    head = write_head(tmp_path / "it")
    prepared = prepare("cpu", "demo", user_argv=asking(model=str(head)))
    launch = Launch(
        plan=prepared.plan, model_folder=prepared.resolved.download(), default_max_tokens=256, host="127.0.0.1", port=8000,
        run_dir=tmp_path, user_argv=prepared.user_argv,
    )  # fmt: skip
    again = plan_again(prepared, launch, hardware.detect())
    assert again is not None
    assert again.speculation == prepared.plan.speculation
    assert again.engine_args["speculative_config"]["model"] == str(head)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": "/nowhere/head"}, "There is no folder /nowhere/head with an EAGLE3 head"),
        ({"model": "~/nowhere"}, "There is no folder"),
        ({"model": "~nobody-here"}, "There is no folder ~nobody-here"),
    ],
)
def test_a_head_that_is_nowhere_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        prepare("rtx3060", "qwen3-vl-2b", user_argv=asking(**given))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no EAGLE3 head of onecard-demo.* is known. Name one"),
        ({"method": "medusa", "model": "a/b"}, r"weights of a draft model \('medusa'\)"),
        ({"method": None, "model": "a/b"}, "`method` can be eagle3"),
        ({"model": "a/b", "quantization": "fp8"}, "a head with `quantization` \\('fp8'\\) is not planned"),
        ({"model": "a/b", "parallel_drafting": True}, "nothing is planned for 'parallel_drafting'"),
        ({"model": 7}, "`model` is 7"),
        ({"model": ""}, "`model` is ''"),
        ({"num_speculative_tokens": None}, "`num_speculative_tokens` is None"),
        ({"num_speculative_tokens": 0}, "`num_speculative_tokens` is 0"),
        ({"num_speculative_tokens": 1000}, "1 to 64"),
    ],
)
def test_what_nothing_is_planned_for_is_refused_in_words(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        prepare("cpu", "demo", user_argv=asking(**given))


def test_a_model_whose_hidden_states_vllm_does_not_hand_out_gets_no_head(tmp_path: Path) -> None:
    wide = QWEN | {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2}
    with pytest.raises(UsageError, match="and not for Qwen2VLForConditionalGeneration"):
        plan_with(write_config(tmp_path, wide), target="qwen2-vl-2b")


def test_a_model_that_is_sampled_with_min_p_cannot_be_drafted_for(tmp_path: Path) -> None:
    """vLLM refuses min_p of every request once drafts are checked."""
    head, model = write_head(tmp_path / "head"), model_file(tmp_path)
    text = Path(model).read_text(encoding="utf-8").replace("temperature: 0.0", "temperature: 1.0\n  min_p: 0.05")
    Path(model).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"min_p 0\.05, which vLLM refuses"):
        plan_with(head, profile="cpu", target=model)
