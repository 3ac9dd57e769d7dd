"""HTTP in front of a service: sockets, faults on their way, the journal beside it."""

import contextlib
import itertools
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from .core import Core
from .faults import Fault, FaultPlan
from .ingest import failed
from .ingest_auth import DATABASE
from .journal import Entry
from .peers import HEADER, NamedPeer, SocketPeer
from .storage import refuse_expired
from .wire import DroppedError, Peer, RefusalError, Request, Response, json_response, text_response

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_MISSING_BYTES = 100
_LOOK_S = 0.02  # how often a request that waits looks whether its fault is still there
_HOST = "127.0.0.1"


class Front(ThreadingHTTPServer):
    """One listening socket of the emulator. Unexpected errors of handlers are kept in `crashes`."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(
        self,
        name: str,
        core: Core,
        faults: FaultPlan,
        answer: Callable[[Core, Request], Response],
        *,
        ids: "itertools.count[int]",
        crashes: list[BaseException],
    ) -> None:
        super().__init__((_HOST, 0), _Exchange)
        self.name = name
        self.core = core
        self.faults = faults
        self.answer = answer
        self.ids = ids
        self.crashes = crashes
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """The base URL without a slash at its end."""
        return f"http://{_HOST}:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that stopping can end it."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection is over."""
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off needs no report; anything else is a fault of the emulator."""
        crash = sys.exception()
        if crash is not None and not isinstance(crash, OSError):
            self.crashes.append(crash)

    def serve(self) -> None:
        """Take connections until `stop`; without `serve_forever`'s polling, which makes stopping slow."""
        while True:
            connection, address = self.socket.accept()
            if self._stopping.is_set():
                connection.close()
                self.server_close()
                return
            self.process_request(connection, address)

    def stop(self) -> None:
        """Stop listening and end the open connections."""
        self._stopping.set()
        socket.create_connection((_HOST, self.server_address[1])).close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Exchange(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Front

    def setup(self) -> None:
        super().setup()
        self._peer = SocketPeer(self.client_address[1], self.server.server_address[1])
        self._last: Entry | None = None

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionResetError:
            # The kernel resets the connection of a client that went without reading its last answer.
            if self._last is not None:
                self.server.core.state.journal.abandon(self._last)

    def log_message(self, *args: Any) -> None:
        """The journal is the log."""

    def _serve(self) -> None:
        self.wfile.flush()  # a "100 Continue" may be waiting there
        target = urlsplit(self.path)
        faults = self.server.faults.strike(self.server.name, self.command, target.path)
        request = self._request(target, cut=any(fault.kind == "cut" for fault in faults))
        journal = self.server.core.state.journal
        entry = self._last = journal.open(request)
        status: int | None = None
        delivered = False
        try:
            self._delay(entry, [fault for fault in faults if fault.kind == "latency"])
            ending = next((fault for fault in faults if fault.kind != "latency"), None)
            entry.fault = ending.kind if ending else next((fault.kind for fault in faults), None)
            response = self._before(request, ending) or self._answer(request)
            status = response.status
            delivered = self._after(entry, response, ending)
        except DroppedError:
            self.close_connection = True
        except OSError:
            journal.abandon(entry)
            self._reset()
        finally:
            journal.close(entry, status, answered=delivered)

    def _request(self, target: SplitResult, *, cut: bool) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        peer: Peer = NamedPeer(headers[HEADER]) if HEADER in headers else self._peer
        return Request(
            next(self.server.ids),
            self.server.name,
            self.command,
            target.path,
            dict(parse_qsl(target.query, keep_blank_values=True)),
            headers,
            self._body(cut=cut),
            self.server.core.state.now_ms(),
            peer,
        )

    def _body(self, *, cut: bool) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return b"".join(self._chunks())
        length = int(self.headers.get("Content-Length") or 0) // (2 if cut else 1)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError(f"client closed after {len(body)} of {length} bytes")
        return body

    def _chunks(self) -> list[bytes]:
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return chunks

    def _delay(self, entry: Entry, faults: Sequence[Fault]) -> None:
        """Wait, but notice when the client gives up: the request is still handled, its answer is lost."""
        deadline = time.monotonic() + sum(fault.seconds for fault in faults)
        listening = [self.connection]
        while (left := deadline - time.monotonic()) > 0 and any(map(self.server.faults.holds, faults)):
            readable, _, _ = select.select(listening, [], [], min(left, _LOOK_S))
            if readable:
                listening = []  # what it says while it waits is its next request, or that it is gone
                if self._client_is_gone():
                    self.server.core.state.journal.abandon(entry)

    def _client_is_gone(self) -> bool:
        try:
            waiting: bytes = self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return not waiting
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _before(self, request: Request, fault: Fault | None) -> Response | None:
        if fault is None:
            return None
        if fault.kind == "cut" or (fault.kind == "reset" and fault.when == "before"):
            raise ConnectionResetError(f"fault: {fault.kind} before the commit")
        if fault.kind == "status" and fault.when == "before":
            return _fault_response(request, fault)
        if fault.kind == "database_error":
            return failed(request.path.removeprefix("/ingest/"), DATABASE)
        if fault.kind == "expired_url":
            return refuse_expired(self.server.core, request)
        return None

    def _answer(self, request: Request) -> Response:
        try:
            return self.server.answer(self.server.core, request)
        except RefusalError as refusal:
            return refusal.response
        except DroppedError:
            raise
        except Exception as crash:  # noqa: BLE001 - an emulator's fault must fail the test, not vanish in a thread
            self.server.crashes.append(crash)
            return text_response(f"the emulator failed: {crash!r}", 500)

    def _after(self, entry: Entry, response: Response, fault: Fault | None) -> bool:
        """Send what the fault leaves of the response; whether the client has the answer."""
        late = fault is not None and (fault.when == "after" or fault.kind == "truncate")
        if fault is not None and late and fault.kind == "reset":
            raise ConnectionResetError("fault: reset after the commit")
        if fault is not None and late and fault.kind == "status":
            entry.fault = "status after"
            self._send(_fault_response(None, fault))
            return False
        if fault is not None and fault.kind == "truncate":
            self._send(response, extra_length=_MISSING_BYTES)
            self.close_connection = True
            return False
        gone = bool(select.select([self.connection], [], [], 0)[0]) and self._client_is_gone()
        if not gone:
            self.server.core.state.journal.answers(entry)
        self._send(response)
        return not gone

    def _send(self, response: Response, extra_length: int = 0) -> None:
        self.send_response(response.status)
        if response.content_type is not None:
            self.send_header("Content-Type", response.content_type)
        for name, value in response.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body) + extra_length))
        self.end_headers()
        if self._last is not None:
            self.server.core.state.journal.leaves(self._last)
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        if self._last is not None:
            self.server.core.state.journal.leaves(self._last)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.connection.close()


for _method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
    setattr(_Exchange, f"do_{_method}", _Exchange._serve)


def _fault_response(request: Request | None, fault: Fault) -> Response:
    headers = () if fault.retry_after is None else (("Retry-After", f"{fault.retry_after:g}"),)
    if fault.status == 401 and request is not None and request.service == "api":
        return json_response({"error": "Unauthorized", "message": "Key not found"}, 401)
    text = f"{fault.status} {HTTPStatus(fault.status).phrase}"
    return Response(fault.status, text.encode(), "text/plain", headers)
