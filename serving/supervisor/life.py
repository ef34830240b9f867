"""One life of the server process: started with its pipes, listened to, and closed once everything that it said has been read.

Owns the pipes; what is said on them is for the lane to interpret.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from serving.ipc import board as board_module
from serving.ipc import control, handover
from serving.ipc.board import Board
from serving.ipc.handover import Channel, Given, receive_all
from serving.machine.processes import ServerProcess


@dataclass(frozen=True)
class Ears:
    """What to call with each line of its log, each event (ipc/control.py), and each connection that it gives back."""

    line: Callable[[str], None]
    event: Callable[[dict[str, Any]], Awaitable[None]]
    given: Callable[[Given], None]


class Life:
    """`ended` is done when the API process exits, with its exit code; connections go to it through `channel`."""

    def __init__(self, process: ServerProcess, channel: Channel, control_end: int, ears: Ears) -> None:
        self.process = process
        self.channel = channel
        self._ears = ears
        self.ended = asyncio.create_task(process.wait())
        self._readers = [asyncio.create_task(self._read_log()), asyncio.create_task(self._read_control(control_end))]
        asyncio.get_running_loop().add_reader(channel.fileno(), self._receive)

    @classmethod
    async def begin(
        cls,
        command: tuple[str, ...],
        listening: socket.socket,
        environment: dict[str, str],
        ears: Ears,
        board: Board | None = None,
    ) -> "Life":
        read_end, write_end = os.pipe()
        channel, theirs = Channel.pair()
        environment = environment | {
            control.ENVIRONMENT_KEY: str(write_end),
            handover.ENVIRONMENT_KEY: str(theirs.fileno()),
        }
        inherited = [listening.fileno(), write_end, theirs.fileno()]
        if board:
            environment[board_module.ENVIRONMENT_KEY] = str(board.descriptor)
            inherited.append(board.descriptor)
        process = await ServerProcess.start((*command, str(listening.fileno())), tuple(inherited), environment)
        os.close(write_end)
        theirs.close()
        return cls(process, channel, read_end, ears)

    async def finish(self) -> None:
        """To be called once all its processes are gone: reads what is left, and closes everything."""
        self._receive()
        asyncio.get_running_loop().remove_reader(self.channel.fileno())
        self.channel.close()
        await asyncio.wait(self._readers, timeout=2)
        for task in (*self._readers, self.ended):
            task.cancel()
        await asyncio.gather(*self._readers, self.ended, return_exceptions=True)

    def _receive(self) -> None:
        if not receive_all(self.channel, self._ears.given, lambda: None):
            asyncio.get_running_loop().remove_reader(self.channel.fileno())

    async def _read_log(self) -> None:
        log = self.process.log
        while log is not None and not log.at_eof():
            try:
                text = (await log.readline()).decode("utf-8", "replace")
            except ValueError:  # a line beyond the reader's limit is skipped; reading must go on
                continue
            if text:
                self._ears.line(text)

    async def _read_control(self, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        pipe = os.fdopen(descriptor, "rb")
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        with contextlib.closing(transport):
            while line := await reader.readline():
                await self._ears.event(json.loads(line))
