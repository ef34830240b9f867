"""The server process: vLLM's own API server on a socket that the supervisor opened. `python -m serving.server FD`.

It turns the plan into vLLM's arguments, checks them with the installed vLLM's parser and hands over to vLLM. Guard and media
connector come in through vLLM's extension points.
"""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from serving.errors import EngineArgsError, NotInstalledError, OnecardError, UsageError
from serving.guard.connection import Connection
from serving.ipc import control
from serving.ipc.launch import SUPERVISOR_KEY, Launch, current_launch
from serving.machine.hardware import in_wsl
from serving.planning.engine_args import REQUIRED, from_argv, split_unknown, to_argv
from serving.planning.planned_args import PLANNED_WITH
from serving.plugin import die_with_parent

logger = logging.getLogger("vllm.onecard")

_Run = Callable[..., Coroutine[Any, Any, None]]
# The API server moves between vLLM's versions: (module of `run_server_worker`, module of `make_arg_parser`).
_PLACES = (
    ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.launchers.cli_args"),  # 0.32, 0.33
    ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.openai.cli_args"),  # 0.26
)
# Not the user's to change: the guard in front, no CORS of vLLM's (the guard decides), no documentation pages.
_FIXED: dict[str, Any] = {
    "middleware": ["serving.guard.stack.Guard"],
    "allowed_origins": [],
    "disable_fastapi_docs": True,
    "disable_uvicorn_access_log": True,
}
# llguidance builds its automata lazily and within limits: a schema of 300 bounded strings takes it 0.03 s. xgrammar, vLLM's
# first choice, takes 60 s for the same, in a thread that nothing can stop (150,000 tokens, two cores).
_DEFAULTS: dict[str, Any] = {
    "structured_outputs_config": {"backend": "guidance", "disable_additional_properties": True}
}
# Our protocol, which limits heads and stalls; no WebSockets; and a shutdown that does not wait for slow readers.
_UVICORN: dict[str, Any] = {"http": Connection, "ws": "none", "timeout_graceful_shutdown": 2}


def main() -> int:
    """Serves until SIGTERM and returns the exit code. The supervisor is told in words why a start was refused."""
    supervisor = os.environ.get(SUPERVISOR_KEY)
    die_with_parent(int(supervisor) if supervisor else None)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which decides
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # "drain": guard/probes.py handles it once requests are taken
    try:
        launch = current_launch()
        if launch is None:
            raise UsageError("serving.server is started by `onecard serve`, not by hand.")
        _serve(launch, socket.socket(fileno=int(sys.argv[1])))
    except OnecardError as error:
        control.tell(event="refused", reason=str(error), exit_code=error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def _serve(launch: Launch, listening: socket.socket) -> None:
    with _no_collecting():
        run_server_worker, args = _load(launch)
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(run_server_worker(launch.url, listening, args, **_UVICORN))


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    """Keeps the garbage collector away from what vLLM's imports create: it all stays, and would be scanned again and again
    while it grows, and later in every full collection, in the forked engine too."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _load(launch: Launch) -> tuple[_Run, Any]:
    """Imports vLLM. Returns its `run_server_worker` and the arguments for it, parsed by vLLM's own parser."""
    run_server_worker, cli_args = _vllm()
    _mend_wsl2()
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = cli_args.make_arg_parser(FlexibleArgumentParser())
    parser.error = _refuse_argument
    args = parser.parse_args(_argv(launch, parser._option_string_actions))
    try:
        cli_args.validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise EngineArgsError(f"vLLM refuses its arguments: {error}") from error
    return run_server_worker, args


def _argv(launch: Launch, known_flags: dict[str, Any]) -> list[str]:
    """The command line for vLLM: the user's arguments verbatim, the plan's that the user did not give, and the fixed ones.

    What this vLLM does not know is left out. Raises EngineArgsError where the plan depends on it.
    """
    planned, unknown = split_unknown({"model": str(launch.model_folder)} | launch.plan.engine_args, known_flags)
    import vllm

    if needed := sorted(REQUIRED.intersection(unknown)):
        raise EngineArgsError(
            f"vLLM {vllm.__version__} does not take {', '.join(needed)}, which the plan depends on. "
            "Install a vLLM that onecard was tested with: `make setup`."
        )
    for name in unknown:
        logger.warning("dropped %s: vLLM %s does not know it", name, vllm.__version__)
    # A second limit behind the guard's admission, which canary and warm-up bypass.
    backstop = {"max_num_queued_reqs": 2 * launch.plan.capacity.max_num_seqs}
    ours, _ = split_unknown(_FIXED | backstop | {"host": launch.host, "port": launch.port}, known_flags)
    _check_user_argv(launch.user_argv, known_flags)
    # vLLM's parser takes the last value of an argument, so the user's must not be followed by another.
    given = from_argv(launch.user_argv).keys() - PLANNED_WITH
    defaults, _ = split_unknown(_DEFAULTS, known_flags)
    left = {name: value for name, value in (defaults | planned).items() if name not in given}
    return [*launch.user_argv, *to_argv(left), *to_argv(ours)]


def _refuse_argument(message: str) -> NoReturn:
    """In place of argparse's usage page and exit."""
    raise EngineArgsError(f"vLLM refuses an argument: {message}.")


def _check_user_argv(user_argv: tuple[str, ...], known_flags: dict[str, Any]) -> None:
    import difflib

    for word in user_argv:
        flag = word.partition("=")[0]
        if word.startswith("--") and flag.replace("_", "-") not in known_flags:
            near = difflib.get_close_matches(flag, known_flags, n=1)
            raise UsageError(f"vLLM has no argument {flag}." + (f" Did you mean {near[0]}?" if near else ""))


def _vllm() -> tuple[_Run, Any]:
    """`run_server_worker`, and the module with the argument parser, from where this vLLM has them."""
    try:
        import_module("vllm")
    except ImportError as error:
        raise NotInstalledError(f"vLLM is not installed here ({error}). `make setup` installs it.") from error
    for api_server, cli_args in _PLACES:
        with contextlib.suppress(ModuleNotFoundError):
            return import_module(api_server).run_server_worker, import_module(cli_args)
    raise NotInstalledError(
        "This vLLM has its API server in a place that onecard does not know. `make setup` mends it."
    )


def _mend_wsl2() -> None:
    """Turns pinned memory on in WSL2, where vLLM leaves it off and its newer model runner then dies with "UVA is not available"
    (vllm#47387, #54652). Only where this vLLM knows the variable, and never over the user's own value."""
    from vllm import envs

    if in_wsl() and "VLLM_WSL2_ENABLE_PIN_MEMORY" in envs.environment_variables:
        os.environ.setdefault("VLLM_WSL2_ENABLE_PIN_MEMORY", "1")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM ends the loading, until vLLM installs its own handlers."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
