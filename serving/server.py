"""The server process: vLLM's own API server on a socket that the supervisor opened. `python -m serving.server FD`.

It builds vLLM's arguments from the plan, checks each against the installed vLLM's parser and hands over. Guard and
media connector come in through vLLM's extension points.
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
# vLLM's API server moved between the versions that are served: (run_server_worker, make_arg_parser and its checks).
_PLACES = (
    ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.launchers.cli_args"),  # 0.32, 0.33
    ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.openai.cli_args"),  # 0.26
)
# Fixed by onecard: the guard in front, one API process, nobody else's origins, no documentation pages.
_FIXED: dict[str, Any] = {
    "middleware": ["serving.guard.stack.Guard"],
    "allowed_origins": [],
    "disable_fastapi_docs": True,
    "disable_uvicorn_access_log": True,
}
# llguidance makes its automata as it goes, within limits of its own: a schema of 300 bounded texts takes it 0.03 s, and
# xgrammar, vLLM's first choice, 60 s in a thread that nothing can stop (150,000 tokens, two cores).
_DEFAULTS: dict[str, Any] = {
    "structured_outputs_config": {"backend": "guidance", "disable_additional_properties": True}
}
# The protocol that bounds heads and stalls, no WebSockets, and an end that does not wait for who reads slowly.
_UVICORN: dict[str, Any] = {"http": Connection, "ws": "none", "timeout_graceful_shutdown": 2}


def main() -> int:
    """Serves until SIGTERM. Returns the exit code; a refusal is told to the supervisor in words."""
    supervisor = os.environ.get(SUPERVISOR_KEY)
    die_with_parent(int(supervisor) if supervisor else None)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which decides
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # means something only once requests are taken (guard/probes.py)
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
    """What vLLM's imports make stays, and Python's collector would look through it again and again as it grows, and later in
    each full round, also in the engine, which is forked with it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _load(launch: Launch) -> tuple[_Run, Any]:
    """Imports vLLM. Its `run_server_worker` and the arguments for that, as its parser reads them."""
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
    """The user's arguments, word for word, those of the plan that this vLLM knows and the user does not give, and ours.

    Raises EngineArgsError when vLLM does not know one that the plan depends on.
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
    # Behind the guard's admission, where this vLLM has it: canary and warm-up go past the guard.
    backstop = {"max_num_queued_reqs": 2 * launch.plan.capacity.max_num_seqs}
    ours, _ = split_unknown(_FIXED | backstop | {"host": launch.host, "port": launch.port}, known_flags)
    _check_user_argv(launch.user_argv, known_flags)
    # Of two values of one argument vLLM reads the last.
    given = from_argv(launch.user_argv).keys() - PLANNED_WITH
    defaults, _ = split_unknown(_DEFAULTS, known_flags)
    left = {name: value for name, value in (defaults | planned).items() if name not in given}
    return [*launch.user_argv, *to_argv(left), *to_argv(ours)]


def _refuse_argument(message: str) -> NoReturn:
    """In place of argparse's page of usage and exit."""
    raise EngineArgsError(f"vLLM refuses an argument: {message}.")


def _check_user_argv(user_argv: tuple[str, ...], known_flags: dict[str, Any]) -> None:
    import difflib

    for word in user_argv:
        flag = word.partition("=")[0]
        if word.startswith("--") and flag.replace("_", "-") not in known_flags:
            near = difflib.get_close_matches(flag, known_flags, n=1)
            raise UsageError(f"vLLM has no argument {flag}." + (f" Did you mean {near[0]}?" if near else ""))


def _vllm() -> tuple[_Run, Any]:
    """`run_server_worker` and the module with the argument parser, where this vLLM has them."""
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
    """Inside WSL2 vLLM leaves pinned memory off, and its newer model runner then dies with "UVA is not available"
    (vllm#47387, #54652). The variable is set only where this vLLM knows it, and never over the user's own value."""
    from vllm import envs

    if in_wsl() and "VLLM_WSL2_ENABLE_PIN_MEMORY" in envs.environment_variables:
        os.environ.setdefault("VLLM_WSL2_ENABLE_PIN_MEMORY", "1")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM before vLLM has handlers of its own ends the loading."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
