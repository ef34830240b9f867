"""The server's log: bounded on disk, and able to say why a server ended."""

from pathlib import Path

import pytest

from serving.supervisor import server_log
from serving.supervisor.server_log import ServerLog

# As vLLM 0.32 logs an engine that does not start: the root error first, then processes saying that another has failed.
FAILED = """\
(EngineCore pid=311) ERROR 11-22 15:20:30 [core.py:1130] EngineCore failed to start.
(EngineCore pid=311) ERROR 11-22 15:20:30 [core.py:1130] Traceback (most recent call last):
(EngineCore pid=311) ERROR 11-22 15:20:30 [core.py:1130]   File "vllm/v1/engine/core.py", line 1104, in run_engine_core
(EngineCore pid=311) ERROR 11-22 15:20:30 [core.py:1130] ValueError: No available memory for the cache blocks.
(EngineCore pid=311) Process EngineCore:
(EngineCore pid=311) Traceback (most recent call last):
(APIServer pid=300) Traceback (most recent call last):
(APIServer pid=300)   File "vllm/v1/engine/utils.py", line 1090, in wait_for_engine_startup
(APIServer pid=300) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def fed(file: Path, text: str) -> ServerLog:
    """The log at the end of a server that wrote that."""
    log = ServerLog(file)
    for line in text.splitlines(keepends=True):
        log.write(line)
    log.close()
    return log


def test_the_first_error_is_the_cause_and_not_what_follows_from_it(tmp_path: Path) -> None:
    why = fed(tmp_path / "server.log", FAILED).explain()
    assert why.startswith("ValueError: No available memory for the cache blocks.")
    assert "Engine core initialization failed" not in why
    assert str(tmp_path / "server.log") in why


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
        "(EngineCore pid=1) ERROR 11-22 15:20:30 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried to",
        "OSError: [Errno 28] No space left on device",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "Exception: WorkerProc initialization failed",
    ],
)
def test_errors_of_every_package_are_recognised(tmp_path: Path, line: str) -> None:
    log = fed(tmp_path / "server.log", f"loading\n{line}\nmore\n")
    assert log.cause is not None
    assert log.cause in line


@pytest.mark.parametrize(
    "line", ["INFO [x.py:1] no error so far", "0 errors: fine", "WARNING [y.py:2] an Error may follow", "Errors: 3"]
)
def test_talk_about_errors_is_not_one(tmp_path: Path, line: str) -> None:
    log = fed(tmp_path / "server.log", line + "\n")
    assert log.cause is None
    assert line in log.explain()


def test_without_an_error_the_last_lines_are_the_explanation(tmp_path: Path) -> None:
    why = fed(tmp_path / "server.log", "".join(f"line {number}\n" for number in range(100))).explain()
    assert "names no error" in why
    assert "    line 99" in why
    assert "line 91\n" not in why


def test_a_new_start_does_not_inherit_the_cause_of_the_last_end(tmp_path: Path) -> None:
    log = fed(tmp_path / "server.log", FAILED)
    log.begin()
    log.write("Killed\n")
    assert "ValueError" not in log.explain()
    assert "Killed" in log.explain()
    log.close()
    # What happened before is still there to be read.
    assert (tmp_path / "server.log").read_text() == FAILED + "Killed\n"


def test_a_very_long_line_is_written_whole_and_explained_in_short(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "server.log")
    log.write("ValueError: " + "x" * 100_000 + "\n")
    log.close()
    assert (tmp_path / "server.log").stat().st_size > 100_000
    assert len(log.explain()) < 2000


def test_the_log_never_takes_more_than_two_files_of_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "_LARGEST_BYTES", 10_000)
    log = ServerLog(tmp_path / "server.log")
    for number in range(3000):
        log.write(f"line {number:06}\n")
    log.close()
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert sizes.keys() <= {"server.log", "server.log.1"}
    assert max(sizes.values()) <= 10_000 + 20
    kept = (tmp_path / "server.log.1").read_text() + (tmp_path / "server.log").read_text()
    assert kept.endswith("line 002999\n")
    assert len(kept.splitlines()) == len(set(kept.splitlines()))


def test_a_second_server_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for text in ("first\n", "second\n"):
        log = ServerLog(tmp_path / "server.log")
        log.write(text)
        log.close()
    assert (tmp_path / "server.log").read_text() == "first\nsecond\n"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """As on a full disk: the folder is gone, and the reason is still known."""
    log = fed(tmp_path / "gone" / "server.log", FAILED)
    assert log.explain().startswith("ValueError: No available memory")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "server.log").symlink_to("/dev/full")
    log = fed(tmp_path / "server.log", FAILED)
    assert log.explain().startswith("ValueError: No available memory")
