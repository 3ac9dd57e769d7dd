"""A trivial ingest service: a process that counts lines and says what the server says when it took them.

`POST` to any path is accepted; for files it gives addresses of its own, and what is put there is counted and
forgotten. `GET /stats` says what came, `DELETE /stats` forgets it. Times are
CLOCK_MONOTONIC. Lines are compared with the time they carry: all of small bodies, of large ones some in each
part.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from typing import Self

import httpx

SMALL = 64 << 10
SAMPLE, STRIDE = 4 << 10, 32 << 10
_TIME = re.compile(rb'"time":\s*(\d+),')
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


class Stats:
    """What came since the last reset."""

    def __init__(self) -> None:
        self.lines = self.first_lines = 0
        self.first_at = self.last_at = 0.0
        self.delays_ms: list[float] = []
        self.put_bytes = 0

    def take(self, body: bytes) -> None:
        """Counts one body."""
        lines, self.last_at = body.count(b"\n"), time.monotonic()
        if not self.lines:
            self.first_at, self.first_lines = self.last_at, lines
        self.lines += lines
        now_ms, pieces = time.time() * 1000, [body]
        if len(body) > SMALL:
            pieces = [body[at : at + SAMPLE] for at in range(0, len(body), STRIDE)]
        self.delays_ms += [now_ms - int(found) for piece in pieces for found in _TIME.findall(piece)]


class Service(asyncio.Protocol):
    """One connection; bodies have a length or come in chunks."""

    stats = Stats()

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._to_come = 0  # of a body that is not kept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers each request that is complete."""
        if self._to_come:
            data = self._skipped(data)
        self._received += data
        while (head := self._received.find(b"\r\n\r\n")) >= 0:
            headers = bytes(self._received[:head])
            found = _LENGTH.search(headers)
            begins = head + 4
            if found and headers.startswith(b"PUT "):
                self._to_come = int(found.group(1))
                rest = bytes(self._received[begins:])
                self._received = bytearray(self._skipped(rest))
                continue
            if found:
                ends = begins + int(found.group(1))
            elif b"chunked" in headers.lower():
                last = self._received.find(b"0\r\n\r\n", begins)
                ends = last + 5 if last >= 0 else sys.maxsize
            else:
                ends = begins
            if len(self._received) < ends:
                return
            body = bytes(self._received[begins:ends])
            del self._received[:ends]
            self._answer(headers, body)

    def _skipped(self, data: bytes) -> bytes:
        """Takes the part of an object that has come; what is behind it."""
        part = data[: self._to_come]
        Service.stats.put_bytes += len(part)
        self._to_come -= len(part)
        if not self._to_come:
            assert self._transport is not None
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return data[len(part) :]

    def _addresses(self, body: bytes) -> bytes:
        assert self._transport is not None
        base = "http://127.0.0.1:{}".format(self._transport.get_extra_info("sockname")[1])
        found: dict[str, list[dict[str, str]]] = {}
        for file in json.loads(body)["files"]:
            found.setdefault(file["logName"], []).append({file["fileName"]: f"{base}/{file['fileName']}"})
        return json.dumps(found).encode()

    def _answer(self, headers: bytes, body: bytes) -> None:
        assert self._transport is not None
        method, path = headers.split(b" ", 2)[:2]
        text = b"Stream processed successfully: %d records" % body.count(b"\n")
        if path == b"/stats":
            text = json.dumps(vars(Service.stats)).encode()
            if method == b"DELETE":
                Service.stats = Stats()
        elif path == b"/files":
            text = self._addresses(body)
        elif path == b"/ingest/metrics":
            Service.stats.take(body)
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


class Sink:
    """The process; killed by its pid at the end of the `with` block."""

    def __enter__(self) -> Self:
        read, write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.sink", str(write)],
            pass_fds=(write,),
            stdin=subprocess.DEVNULL,
        )
        os.close(write)
        with os.fdopen(read) as port:
            self.url = f"http://127.0.0.1:{int(port.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def reset(self) -> None:
        """Forgets what came so far."""
        httpx.delete(f"{self.url}/stats", trust_env=False)

    def stats(self) -> Stats:
        """What came since the last reset."""
        stats = Stats()
        vars(stats).update(httpx.get(f"{self.url}/stats", trust_env=False).json())
        return stats


async def serve(ready: int) -> None:
    """Listens on a free port of loopback and says which."""
    server = await asyncio.get_running_loop().create_server(Service, "127.0.0.1", 0)
    with os.fdopen(ready, "w") as port:
        port.write(f"{server.sockets[0].getsockname()[1]}\n")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
