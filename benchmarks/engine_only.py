"""vLLM's own server with onecard's engine arguments: no guard, no supervisor, no warm-up. `python -m benchmarks.engine_only
LAUNCH.json`; with ONECARD_LAUNCH and VLLM_MEDIA_CONNECTOR set, as contenders.py can, with onecard's media connector.

It is what onecard is measured against to tell what those cost; nobody should serve with it.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from serving.ipc.launch import Launch
from serving.planning.engine_args import split_unknown, to_argv


def main() -> None:
    """Serves until it is ended."""
    import uvloop
    from vllm.entrypoints.openai.api_server import run_server
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_args = _cli_args()
    launch = Launch.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    parser = cli_args.make_arg_parser(FlexibleArgumentParser())
    planned = {"model": str(launch.model_folder), "host": launch.host, "port": launch.port} | launch.plan.engine_args
    quiet = {"disable_fastapi_docs": True, "disable_uvicorn_access_log": True}
    known, _ = split_unknown(planned | quiet, parser._option_string_actions)
    args = parser.parse_args([*to_argv(known), *launch.user_argv])
    cli_args.validate_parsed_serve_args(args)
    uvloop.run(run_server(args))


def _cli_args() -> Any:
    """The module with the server's arguments, where this vLLM has it."""
    try:
        return import_module("vllm.entrypoints.launchers.cli_args")  # 0.32, 0.33
    except ModuleNotFoundError:
        return import_module("vllm.entrypoints.openai.cli_args")  # 0.26


if __name__ == "__main__":
    main()
