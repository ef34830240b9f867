"""The command as a person types it: what it prints where, and with which exit code it ends."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving import __version__
from serving.machine.port import free_port
from tests.conftest import ONECARD

COMMANDS = (
    "serve",
    "plan",
    "profiles",
    "doctor",
    "report",
    "status",
    "stop",
    "sleep",
    "wake",
    "logs",
    "ask",
    "batch",
    "quantize",
    "evaluate",
)
CPU_16_GB = ("--profile", "cpu", "--gpu-memory-mib", "16000")
NO_WEIGHTS = ("--", "--load-format", "dummy")  # what is tested does not depend on them


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a state folder of the test's own, and without keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ONECARD_")}
    return kept | {"ONECARD_STATE_DIR": str(tmp_path / "state")}


def onecard(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*ONECARD, *arguments], capture_output=True, text=True, timeout=60, env=environment)
    assert "Traceback" not in done.stderr
    return done


def test_the_version_is_the_packages(environment: dict[str, str]) -> None:
    assert onecard(environment, "--version").stdout == f"{__version__}\n"


def test_help_lists_every_command_and_what_to_do_first(environment: dict[str, str]) -> None:
    text = onecard(environment, "--help").stdout
    assert all(f"  {command} " in text for command in COMMANDS)
    assert "onecard ask photo.jpg" in text
    # What a command does stands there whole; Click ends what is longer than the line with three dots.
    assert [line for line in text.partition("Commands:")[2].splitlines() if line.endswith("...")] == []
    # Typed alone it says the same, and that something is missing.
    alone = onecard(environment)
    assert alone.returncode == 2
    assert "Usage" in alone.stdout + alone.stderr


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("serve", "--profile --model --port --host --gpu-memory-mib --dry-run --allow-image-urls --api-keys-file"),
        ("serve", "--allow-host --allow-origin --drain-seconds --hang-seconds --unsafe"),
        ("serve", "--models --idle-unload --wake-deadline --min-stay"),
        ("plan", "--profile --model --json --gpu-memory-mib --measured --matrix"),
        ("pull", "--warm --profile"),
        ("ask", "--port --url --max-tokens --system --schema --json --follow"),
        ("batch", "--prompt --out --port --url --system --schema --max-tokens --concurrency"),
        ("quantize", "--model --scheme --out --calibration --samples --questions --accept-loss --restart --device"),
        ("requantize-head", "--model --out --scheme"),
        ("evaluate", "--model --against --questions --count --gate --json"),
        ("logs", "--port --lines --follow"),
    ],
)
def test_the_flags_of_the_contract_are_there_and_explained(
    environment: dict[str, str], command: str, flags: str
) -> None:
    done = onecard(environment, command, "--help")
    assert done.returncode == 0
    assert [flag for flag in flags.split() if flag not in done.stdout] == []


def test_every_model_on_every_card(environment: dict[str, str]) -> None:
    cells = json.loads(onecard(environment, "plan", "--matrix", "--json").stdout)
    of = {(cell["profile"], cell["model"]): cell for cell in cells}
    assert not of["rtx3060", "qwen3-vl-8b"]["fits"]
    assert of["rtx3060", "qwen3-vl-2b-awq"]["kv_tokens"] >= 62_000
    table = onecard(environment, "plan", "--matrix").stdout
    assert "rtx3060ti, rtx3070" in table  # the same memory and bandwidth
    assert "qwen3-vl-8b-awq" in table


def test_8b_in_16_bits_is_refused_on_12_gb_with_something_that_fits(environment: dict[str, str]) -> None:
    done = onecard(environment, "plan", "-p", "rtx3060", "-m", "qwen3-vl-8b", "--json")
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["fits"]) == (3, False)
    assert plan["alternatives"][0].startswith("--model qwen3-vl-8b-awq fits")
    words = onecard(environment, "serve", "-p", "rtx3060", "-m", "qwen3-vl-8b")
    assert words.returncode == 3
    assert "What would fit:" in words.stderr


def test_what_one_step_would_change_is_said_with_the_plan(environment: dict[str, str]) -> None:
    done = onecard(environment, "plan", "-p", "rtx3060")
    assert done.returncode == 0
    assert "One step otherwise:" in done.stdout
    assert "--max-num-seqs 64" in done.stdout


def test_measured_without_a_server_names_the_way_out(environment: dict[str, str]) -> None:
    done = onecard(environment, "plan", "--measured", "--port", "1")
    assert done.returncode == 11
    assert "onecard serve" in done.stderr


def test_a_plan_in_words(environment: dict[str, str]) -> None:
    done = onecard(environment, "plan", *CPU_16_GB)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo (16 bits) on CPU, profile cpu" in done.stdout
    assert "conversations of 4,096" in done.stdout


def test_a_plan_as_json_is_one_object_whether_it_fits_or_not(environment: dict[str, str]) -> None:
    fitting = onecard(environment, "plan", *CPU_16_GB, "--json")
    assert fitting.returncode == 0
    assert json.loads(fitting.stdout)["fits"] is True
    tight = onecard(environment, "plan", "--profile", "cpu", "--gpu-memory-mib", "100", "--json")
    assert tight.returncode == 3
    plan = json.loads(tight.stdout)
    assert (plan["fits"], plan["gpu"]["total_mib"]) == (False, 100)
    assert plan["reason"]


def test_a_plan_takes_vllms_arguments_after_the_dashes(environment: dict[str, str]) -> None:
    done = onecard(environment, "plan", *CPU_16_GB, "--json", "--", "--max-model-len", "2K", "--seed=7")
    plan = json.loads(done.stdout)
    assert (plan["capacity"]["max_model_len"], plan["engine_args"]["seed"]) == (2048, 7)


def test_a_plan_needs_neither_torch_nor_vllm() -> None:
    code = (
        "import sys; from serving import matrix, prepare; prepare.prepare('rtx3060', 'demo'); matrix.as_text()\n"
        "print([name for name in ('torch', 'vllm', 'transformers', 'openai') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_dry_run_prints_the_plan_and_vllms_arguments_and_starts_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = onecard(environment, "serve", *CPU_16_GB, "--dry-run", "--", "--seed", "7")
    assert (done.returncode, done.stderr) == (0, "")
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:2] == ["vllm", "serve"]
    assert (Path(words[2]) / "config.json").is_file()
    # As a shell takes it: JSON is one word.
    assert json.loads(words[words.index("--limit-mm-per-prompt") + 1]) == {"image": 4, "video": 0}
    assert "--seed 7" in " ".join(words)
    assert not (tmp_path / "state").exists()


def test_what_does_not_fit_is_refused_once_and_dry_too(environment: dict[str, str]) -> None:
    for dry in ([], ["--dry-run"]):
        done = onecard(environment, "serve", "--profile", "cpu", "--gpu-memory-mib", "100", *dry)
        assert done.returncode == 3
        assert (done.stdout + done.stderr).count("does not fit") == 1
        assert "vllm serve" not in done.stdout


def test_the_profiles_in_words_and_as_json(environment: dict[str, str]) -> None:
    text = onecard(environment, "profiles").stdout
    assert "rtx4060ti" in text
    assert "alias rtx4060ti-16g" in text
    assert "cyankiwi/Qwen3-VL-2B-Instruct-AWQ-4bit" in text
    both = json.loads(onecard(environment, "profiles", "--json").stdout)
    assert both["profiles"]["rtx3060"]["gpu"]["memory_mib"] == 12_288
    assert both["models"]["demo"]["source"]["builtin"] == "demo"


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (4, ["plan", "--profile", "rtx306"], "Did you mean `rtx3060`?"),
        (4, ["doctor", "--profile", "./none.yaml"], "No such file"),
        (5, ["plan", "--profile", "cpu", "--model", "./nowhere"], "There is no model folder"),
        (5, ["pull", "qwen3-vl-2"], "Did you mean qwen3-vl-2b?"),
        (5, ["pull", "./qwen3-vl-2b-awq"], "There is no model folder"),
        (5, ["pull", "."], "config.json"),
        (2, ["plan", "--profil", "cpu"], "No such option"),
        (2, ["status", "--port", "99999"], "65535"),
        (2, ["serve", "--profile", "cpu", "--", "--max-model-len", "auto"], "--max-model-len is 'auto'"),
        (2, ["serve", "--profile", "cpu", "--idle-unload", "forever", "--dry-run"], "'forever' is no time"),
        (2, ["serve", "--profile", "cpu", "--min-stay", "9" * 400, "--dry-run"], "is no time up to 30 days"),
        (2, ["serve", "--profile", "cpu", "--hang-seconds", "inf", "--dry-run"], "--hang-seconds"),
        (2, ["serve", "--profile", "cpu", "--allow-host", "https://a.example", "--dry-run"], "as onecard.example.com"),
        (2, ["serve", "--profile", "cpu", "--allow-host", "a.example,b.example", "--dry-run"], "blanks between"),
        (2, ["serve", "--profile", "cpu", "--allow-host", "[fe80::1]", "--dry-run"], "addresses are answered anyway"),
        (2, ["serve", "--profile", "cpu", "--allow-origin", "a.example", "--dry-run"], "as https://chat.example.com"),
        (2, ["ask", "What is this?"], "Name a picture and a question"),
        (11, ["logs"], "no log"),
        (11, ["stop"], "No onecard runs"),
        (3, ["serve", "--profile", "cpu", "--gpu-memory-mib", "100"], "demo does not fit with the profile `cpu`"),
    ],
)
def test_a_refusal_is_one_paragraph_with_its_exit_code(
    environment: dict[str, str], code: int, arguments: list[str], says: str
) -> None:
    done = onecard(environment, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert says in done.stderr


def test_nobody_serves(environment: dict[str, str]) -> None:
    done = onecard(environment, "status", "--port", str(free_port()))
    assert (done.returncode, done.stdout) == (11, "")
    assert "onecard serve" in done.stderr


def test_without_a_key_the_server_stays_on_this_machine(environment: dict[str, str], tmp_path: Path) -> None:
    serve = ["serve", *CPU_16_GB, "--host", "0.0.0.0"]
    refused = onecard(environment, *serve, *NO_WEIGHTS)
    assert refused.returncode == 2
    assert "ONECARD_API_KEY" in refused.stderr
    (tmp_path / "keys").write_text("# none yet\n")
    empty = onecard(environment, *serve, "--api-keys-file", str(tmp_path / "keys"), *NO_WEIGHTS)
    assert empty.returncode == 4
    assert "holds no key" in empty.stderr


def test_a_host_that_is_not_this_machines(environment: dict[str, str]) -> None:
    for host in ("203.0.113.7", "no-such-host.invalid"):
        done = onecard(environment | {"ONECARD_API_KEY": "x"}, "serve", *CPU_16_GB, "--host", host, *NO_WEIGHTS)
        assert done.returncode == 2, done.stderr
        assert "no address of this machine" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(environment: dict[str, str]) -> None:
    """As `onecard profiles --json | head -1` does."""
    with subprocess.Popen(
        [*ONECARD, "profiles", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert b"Traceback" not in started.stderr.read()


def test_a_full_disk_is_said_in_words(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*ONECARD, "plan", *CPU_16_GB]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (10, 1)
    assert "No space left on device" in done.stderr


def test_configuration_files_that_are_nowhere_are_said_to_be(environment: dict[str, str], tmp_path: Path) -> None:
    done = onecard(environment | {"ONECARD_CONFIGS_DIR": str(tmp_path / "slip")}, "plan", "--profile", "cpu")
    assert done.returncode == 4
    assert f"no folder {tmp_path / 'slip' / 'profiles'}. ONECARD_CONFIGS_DIR must" in done.stderr


def test_a_log_of_another_format_is_refused(environment: dict[str, str]) -> None:
    done = onecard(environment | {"ONECARD_LOG_FORMAT": "JSON"}, "serve", "--profile", "cpu", "--dry-run")
    assert done.returncode == 2
    assert "`json`" in done.stderr


def test_pages_and_programs_are_let_in_by_their_origins(environment: dict[str, str]) -> None:
    origins = "https://a.example http://localhost:3210/ file:// null chrome-extension://abc http://[::1]:3000"
    more = {"ONECARD_ALLOW_ORIGIN": origins, "ONECARD_ALLOW_HOST": "a.example B_c.local"}
    assert onecard(environment | more, "serve", "--profile", "cpu", "--dry-run").returncode == 0


def test_what_the_encoding_of_a_terminal_lacks_is_escaped(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*ONECARD, "plan", *CPU_16_GB],
        capture_output=True, env=environment | {"PYTHONIOENCODING": "latin-1"}, timeout=60, check=True,
    )  # fmt: skip
    assert rb"20 MiB  \u258f" in done.stdout  # the bar of the weights
    assert "1024×768".encode("latin-1") in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_following_of_a_log_ends_quietly(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "state" / "8000"
    folder.mkdir(parents=True)
    (folder / "server.log").write_text("the last line\n")
    with subprocess.Popen(
        [*ONECARD, "logs", "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "the last line\n"
        time.sleep(0.1)
        following.send_signal(number)
        _, errors = following.communicate(timeout=10)
    assert following.returncode == code
    assert "Traceback" not in errors


def test_following_a_log_goes_on_in_the_next_one_when_it_is_full(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "state" / "8000"
    folder.mkdir(parents=True)
    log = folder / "server.log"
    log.write_text("old\nlast\n")
    with subprocess.Popen(
        [*ONECARD, "logs", "--follow", "--lines", "1"], stdout=subprocess.PIPE, env=environment, text=True
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "last\n"
        with log.open("a") as stream:
            stream.write("added\n")
        assert following.stdout.readline() == "added\n"
        log.replace(folder / "server.log.1")
        log.write_text("of the new one\n")
        assert following.stdout.readline() == "of the new one\n"
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "qwen3-vl-2b-awk"), "Did you mean qwen3-vl-2b-awq?"),
        (("--matrix", "--model", "demo"), "every model on every card"),
        (("--matrix", "--cards", "2"), "every model on every card"),
        (("--matrix", "--measured"), "every model on every card"),
        (("--cards", "100000000000"), "less than or equal to 1024"),
    ],
)
def test_what_a_plan_cannot_mean_is_said(environment: dict[str, str], words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        [*ONECARD, "plan", *words], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode not in (0, 1)
    assert said in done.stderr


def test_how_many_cards_serve_is_nothing_to_the_plans_of_all(environment: dict[str, str]) -> None:
    done = onecard(environment | {"ONECARD_CARDS": "2"}, "plan", "--matrix")
    assert done.returncode == 0, done.stderr
