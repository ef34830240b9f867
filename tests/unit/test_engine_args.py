"""vLLM's arguments between the plan, the command line and vLLM's own parser, which is the real one here."""

import contextlib
import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import EngineArgsError, OnecardError, UsageError
from serving.ipc.launch import Launch
from serving.planning.engine_args import REQUIRED, count, from_argv, names, split_unknown, to_argv
from serving.planning.profile import load_models, load_profiles
from serving.prepare import prepare
from tests.eagle import DEMO, write_config


def is_plain(text: str) -> bool:
    """Text that is not itself JSON, such as `8192` or `true`, which the command line cannot tell from the value."""
    try:
        json.loads(text)
    except ValueError:
        return True
    return False


_NAMES = st.from_regex(r"[a-z]{3,6}(_[a-z]{2,5}){0,2}", fullmatch=True).filter(lambda name: not name.startswith("no_"))
_TEXT = st.from_regex(r"[A-Za-z/.][\w/.:-]{0,8}", fullmatch=True).filter(is_plain)
_NUMBERS = st.integers(0) | st.floats(0, allow_nan=False, allow_infinity=False)
_JSON = st.recursive(
    _NUMBERS | st.booleans() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
_ARGUMENTS = st.dictionaries(
    _NAMES,
    st.booleans()
    | _NUMBERS
    | _TEXT
    | st.dictionaries(_TEXT, _JSON)
    | st.lists(_TEXT | _NUMBERS, min_size=2, max_size=4),
    max_size=6,
)


@given(_ARGUMENTS)
def test_what_is_written_out_for_vllm_reads_back_as_it_was(args: dict[str, Any]) -> None:
    assert from_argv(to_argv(args)) == args


@given(st.lists(st.text(max_size=12)))
def test_any_words_after_the_dashes_are_read_or_refused(words: list[str]) -> None:
    with contextlib.suppress(UsageError):
        assert len(from_argv(words)) <= len(words)


@pytest.mark.parametrize(
    ("argv", "args"),
    [
        (["--max-model-len", "8192"], {"max_model_len": 8192}),
        (["--max-model-len=8192"], {"max_model_len": 8192}),
        (["--max_model_len", "8192"], {"max_model_len": 8192}),
        (["--enforce-eager"], {"enforce_eager": True}),
        (["--no-enable-prefix-caching"], {"enable_prefix_caching": False}),
        (["--no-x", "--x"], {"x": True}),
        (["--x", "1", "--x", "2"], {"x": 2}),
        (["--limit-mm-per-prompt", '{"image": 2}'], {"limit_mm_per_prompt": {"image": 2}}),
        (["--served-model-name", "a", "7", "b"], {"served_model_name": ["a", 7, "b"]}),
        (["--cuda-graph-sizes", "1", "2", "4"], {"cuda_graph_sizes": [1, 2, 4]}),
        (["--x", "true", "false"], {"x": [True, False]}),
        (["--seed", "-1"], {"seed": -1}),
        (["--chat-template", ""], {"chat_template": ""}),
        (["--load-format", "dummy", "--dtype=bfloat16"], {"load_format": "dummy", "dtype": "bfloat16"}),
        ([], {}),
    ],
)
def test_words_are_read_as_vllm_reads_them(argv: list[str], args: dict[str, Any]) -> None:
    assert from_argv(argv) == args


@pytest.mark.parametrize("argv", [["fast"], ["-O3"], ["--no-x", "value"], ["--"], ["--", "--x"]])
def test_words_that_belong_to_no_flag_are_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="belongs to no flag"):
        from_argv(argv)


def test_a_part_of_an_object_is_refused_since_the_plan_reads_it_whole() -> None:
    with pytest.raises(UsageError, match="give --limit-mm-per-prompt as one JSON object"):
        from_argv(["--limit-mm-per-prompt.image", "50"])


def test_a_short_flag_is_no_value_of_the_flag_before_it() -> None:
    with pytest.raises(UsageError, match="long names"):
        from_argv(["--max-model-len", "8192", "-tp", "2"])


def test_booleans_lists_and_nothing_are_written_as_vllm_reads_them() -> None:
    args = {"on": True, "off": False, "some": ["a", "b"], "none": [], "unset": None, "table": {"a": [1]}}
    assert to_argv(args) == ["--on", "--no-off", "--some", "a", "b", "--none", "[]", "--table", '{"a": [1]}']


@pytest.mark.parametrize(
    ("value", "number"), [(8192, 8192), ("16k", 16_000), ("16K", 16_384), ("1.5k", 1500), ("1G", 2**30)]
)
def test_a_count_is_read_in_vllms_notation(value: Any, number: int) -> None:
    assert count("max_model_len", value) == number


@pytest.mark.parametrize("value", ["auto", -1, 0, 1.5, True, None, "8192 tokens", [8192], {"a": 1}, "k"])
def test_what_the_plan_cannot_count_with_is_refused_by_its_flag(value: Any) -> None:
    with pytest.raises(UsageError, match=r"--max-model-len is .* whole number above 0"):
        count("max_model_len", value)


def test_names_are_a_list_whether_one_was_given_or_several() -> None:
    assert (names("gpt-4o"), names(["a", 7]), names(7)) == (["gpt-4o"], ["a", "7"], ["7"])


def test_arguments_that_a_vllm_does_not_know_are_set_apart() -> None:
    known, unknown = split_unknown({"max_model_len": 1, "new_thing": 2}, ["--max-model-len", "--no-color", "-q"])
    assert (known, unknown) == ({"max_model_len": 1}, ["new_thing"])


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    """The argument parser of the installed vLLM."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from serving.server import _vllm

    made: ArgumentParser = _vllm()[1].make_arg_parser(FlexibleArgumentParser())
    return made


def launch_of(tmp_path: Path, *user_argv: str, profile: str = "cpu") -> Launch:
    plan = prepare(profile, "demo", gpu_memory_mib=8192, user_argv=user_argv).plan
    return Launch(
        plan=plan, model_folder=tmp_path, default_max_tokens=256, host="127.0.0.1", port=8000, run_dir=tmp_path,
        user_argv=user_argv,
    )  # fmt: skip


def parsed(parser: ArgumentParser, launch: Launch) -> Any:
    from serving.server import _argv

    return parser.parse_args(_argv(launch, parser._option_string_actions))


@pytest.mark.filterwarnings("ignore")
def test_the_plan_arrives_in_vllm_as_it_was_made(parser: ArgumentParser, tmp_path: Path) -> None:
    launch = launch_of(tmp_path)
    args = parsed(parser, launch)
    for name, value in launch.plan.engine_args.items():
        assert getattr(args, name) == value, name
    assert args.model == str(tmp_path)
    assert args.middleware == ["serving.guard.stack.Guard"]
    assert (args.host, args.port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    "argument",
    [
        "--port", "--host=0.0.0.0", "--api-key", "--middleware=other.Guard", "--config", "--num-gpu-blocks-override=9",
        "--device-ids=1", "--model-weights=a",
        "--device-memory-utilization", "--cudagraph-capture-sizes", "--worker-extension-cls=a.B", "--ssl-certfile=a",
    ],
)  # fmt: skip
def test_what_is_onecards_own_to_decide_is_refused_after_the_dashes(argument: str) -> None:
    with pytest.raises(UsageError, match="is not for vLLM"):
        from_argv([argument])


@pytest.mark.filterwarnings("ignore")
def test_what_the_user_gives_wins_over_the_plan(
    parser: ArgumentParser, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = ("--max-model-len", "1K", "--served-model-name", "gpt-4o")
    launch = launch_of(tmp_path, *user)
    args = parsed(parser, launch)
    assert "duplicate" not in caplog.text
    assert (args.max_model_len, launch.plan.capacity.max_model_len) == (1024, 1024)
    assert (args.served_model_name, launch.model_names) == (["gpt-4o"], ["gpt-4o"])
    assert (args.host, args.port) == ("127.0.0.1", 8000)


@pytest.mark.filterwarnings("ignore")
def test_what_the_user_says_of_compilation_is_added_to_the_plans(parser: ArgumentParser, tmp_path: Path) -> None:
    planned = launch_of(tmp_path, profile="rtx3060").plan.engine_args["compilation_config"]
    graphs = ("--compilation-config", '{"cudagraph_mm_encoder": true}')
    args = parsed(parser, launch_of(tmp_path, *graphs, profile="rtx3060"))
    assert args.compilation_config.cudagraph_mm_encoder
    assert set(args.compilation_config.cudagraph_capture_sizes) >= set(planned["cudagraph_capture_sizes"])


@pytest.mark.filterwarnings("ignore")
def test_who_bounds_the_pictures_does_not_open_the_door_to_videos(parser: ArgumentParser, tmp_path: Path) -> None:
    two = parsed(parser, launch_of(tmp_path, "--limit-mm-per-prompt", '{"image": 2}'))
    assert two.limit_mm_per_prompt == {"image": 2, "video": 0}
    none = launch_of(tmp_path, "--limit-mm-per-prompt", '{"audio": 0}')
    assert parsed(parser, none).limit_mm_per_prompt == {"image": 4, "video": 0, "audio": 0}
    assert none.plan.limits.max_images_per_request == 4


@pytest.mark.filterwarnings("ignore")
def test_the_head_that_vllm_loads_is_the_folder_that_was_planned(
    parser: ArgumentParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user may have named it by a Hub id, or not at all."""
    head = write_config(tmp_path / "head", DEMO)
    monkeypatch.chdir(tmp_path)
    asked = {"method": "eagle3", "model": "head", "num_speculative_tokens": 3}
    args = parsed(parser, launch_of(tmp_path, "--speculative-config", json.dumps(asked)))
    assert args.speculative_config == asked | {"model": str(head)}


@pytest.mark.filterwarnings("ignore")
def test_a_mistyped_argument_of_vllm_names_the_near_one(parser: ArgumentParser, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no argument --max-model-length. Did you mean --max-model-len\?"):
        parsed(parser, launch_of(tmp_path, "--max-model-length", "8192"))


@pytest.mark.filterwarnings("ignore")
def test_a_vllm_without_a_needed_argument_is_not_started(parser: ArgumentParser, tmp_path: Path) -> None:
    from serving.server import _argv

    flags = {flag: None for flag in parser._option_string_actions if flag != "--mm-processor-kwargs"}
    with pytest.raises(EngineArgsError, match="does not take mm_processor_kwargs") as caught:
        _argv(launch_of(tmp_path), flags)
    assert isinstance(caught.value, OnecardError)
    assert caught.value.exit_code == 12


@pytest.mark.filterwarnings("ignore")
def test_every_argument_of_every_profile_and_model_is_one_of_vllms(parser: ArgumentParser) -> None:
    flags = parser._option_string_actions
    for profile in load_profiles().values():
        assert split_unknown(profile.engine_args, flags)[1] == []
    assert split_unknown(dict.fromkeys(REQUIRED), flags)[1] == []
    parsers = {model.tool_call_parser for model in load_models().values()} - {None}
    from vllm.tool_parsers import ToolParserManager

    assert parsers <= set(ToolParserManager.list_registered())
