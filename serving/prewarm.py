"""`onecard pull MODEL --warm`: what a first start compiles, compiled ahead of it by a start that ends when it is ready.

Which kernels those are depends on the card, the plan and vLLM's arguments; the caches are vLLM's, Inductor's, Triton's and
FlashInfer's own, where they always are. The next `onecard serve` with the same plan finds them.
"""

import asyncio
import os
import shutil

from serving.machine.port import free_port, open_socket
from serving.prepare import ServerOptions, make_launch, prepare
from serving.supervisor.supervisor import Supervisor


def warm_caches(profile: str, model: str, user_argv: tuple[str, ...] = ()) -> None:
    """Downloads the model where it is not here, and starts it once. Raises OnecardError when it does not fit, or does not come
    up; the log of such a start is kept."""
    os.environ["ONECARD_EXPORTER_PORT"] = "0"  # nobody is to watch this server
    prepared = prepare(profile, model, user_argv=user_argv, cards=1)
    launch = make_launch(prepared, ServerOptions("127.0.0.1", free_port()))
    supervisor = Supervisor(launch, open_socket(launch.host, launch.port), until_ready=True)
    asyncio.run(supervisor.run())
    shutil.rmtree(launch.run_dir)
