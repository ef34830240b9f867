"""TCP ports of this machine: the one to serve on, opened before anything is loaded, and free ones for servers of our own."""

import errno
import socket

from serving.errors import PortInUseError, UsageError
from serving.machine.onecards import serves_on


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortInUseError naming who has the port, UsageError where address or port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if isinstance(error, PermissionError):
            raise UsageError(f"Port {port} needs root (ports below 1024 do). Choose another with --port.") from error
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(
                f"{host!r} is no address of this machine. --host takes 127.0.0.1 or 0.0.0.0, mostly."
            ) from error
        if serves_on(port):
            who, stop = "a onecard of yours", f"Ask that one, stop it with `onecard stop --port {port}`,"
        else:
            who, stop = _owner(port), f"Stop it (`onecard stop --port {port}` if it is another user's onecard),"
        raise PortInUseError(
            f"Port {port} is in use by {who}. {stop} or choose another port: --port {port + 1}, or PORT={port + 1} with make."
        ) from error
    listening.listen(2048)
    return listening


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _owner(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            at_port = connection.laddr and connection.laddr.port == port
            # A process of another user's has no number here.
            if at_port and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass  # it has ended meanwhile, or its name is not ours to see
    return "another program"
