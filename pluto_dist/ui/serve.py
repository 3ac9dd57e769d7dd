"""The server of the page: its socket, the address that is printed, its end."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
from collections.abc import Callable

import uvicorn

from pluto_dist.errors import MachineError, UsageError
from pluto_dist.read.lookup import Lookup
from pluto_dist.ui.app import Pages
from pluto_dist.ui.guard import Guard, Guarded

PORT = 8642
TRIED = 20  # ports from the first one on, if the caller has not chosen one
LEAVE_S = 2


class Server:
    """Serves the page until it is stopped.

    Attributes:
        address: with the token, for a person to open.
        only_here: no other machine reaches it.

    Args:
        make: a lookup with what takes its remarks.
        host: name or address to listen on.
        port: None for the first free one from `PORT` on, 0 for any.
        only_store: of the Runs of the node only those of the store that is looked at.

    Raises:
        UsageError: the host is none of this machine's.
        MachineError: the port is taken, or may not be used.
    """

    def __init__(
        self,
        make: Callable[[Callable[[str], object]], Lookup],
        host: str = "127.0.0.1",
        port: int | None = None,
        *,
        only_store: bool = False,
    ) -> None:
        self._socket = _listening(host, port)
        number: int = self._socket.getsockname()[1]
        guard = Guard(secrets.token_urlsafe(24), frozenset({host, socket.gethostname()}), number)
        pages = Pages(make, only_store=only_store, stopping=self._is_stopping)
        config = uvicorn.Config(
            Guarded(pages.app(), guard),
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=LEAVE_S,
        )
        self._server = uvicorn.Server(config)
        self.only_here = ipaddress.ip_address(self._socket.getsockname()[0]).is_loopback
        self.address = f"http://{_shown(host)}:{number}/?token={guard.token}"

    def run(self) -> None:
        """Returns when it is interrupted or stopped."""
        with self._socket:
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Lets `run` return; for another thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Gives the port back, if it was never served."""
        self._socket.close()

    def _is_stopping(self) -> bool:
        return self._server.should_exit


def _listening(host: str, port: int | None) -> socket.socket:
    family, address = _resolved(host)
    ports = [port] if port is not None else list(range(PORT, PORT + TRIED))
    for number in ports:
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address, number))
            found.listen(128)
        except (OSError, OverflowError) as error:
            found.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE and number != ports[-1]:
                continue
            raise _refused(error, host, ports) from error
        return found
    raise AssertionError("at least one port is tried")


def _resolved(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(
            f"--host {host!r} is no name or address of this machine ({error}); 127.0.0.1 is for this machine "
            "alone, 0.0.0.0 for everybody who can reach it"
        ) from error
    return found[0][0], str(found[0][4][0])


def _refused(error: OSError | OverflowError, host: str, ports: list[int]) -> MachineError | UsageError:
    which = f"{ports[0]}" if len(ports) == 1 else f"{ports[0]} to {ports[-1]}"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return MachineError(
            f"port {which} of {host} is taken by another program, maybe by another `pluto-dist ui`; choose "
            "one with --port, or let the system choose with --port 0"
        )
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"--host {host!r} is no address of this machine; 127.0.0.1 and 0.0.0.0 always are")
    return MachineError(f"port {which} of {host} cannot be used: {error}; choose another with --port")


def _shown(host: str) -> str:
    """The host name by which a browser on this machine, or on another one, reaches the server."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return socket.gethostname()
    return f"[{host}]" if address.version == 6 else host
