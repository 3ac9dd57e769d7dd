"""A coordinator that only answers questions, with what a test gave it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pluto_dist.core.values.document import Document
from pluto_dist.core.values.messages import Answer, AskRun, AskRuns, AskStatus, Question, Refusal, Reply
from pluto_dist.core.values.messages import Request as AnyRequest
from pluto_dist.transport.zeromq import RouterServer

LOOK_MS = 10  # whether the block is over

Answers = Callable[[AnyRequest], Reply | None]


@contextmanager
def answering(socket: Path, answers: Answers) -> Iterator[None]:
    """Listens on a socket while the block runs; `answers` gives the reply, or None for silence."""
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = RouterServer(socket)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            server.socket.poll(LOOK_MS)
            for peer, request in server.receive():
                reply = answers(request)
                if reply is not None:
                    server.send(peer, reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        server.close(unlink=True)


def knowing(*documents: Document) -> Answers:
    """Answers of a coordinator that has these Runs."""

    def answer(question: AnyRequest) -> Reply | None:
        match question:
            case AskRuns(request=number):
                return Answer(request=number, body=msgspec.json.encode(documents))
            case AskRun(request=number, run=key):
                return _one([found for found in documents if found.key == key], number, key)
            case AskStatus(request=number):
                body = {"generation": 7, "protocol": 1, "runs": 1, "live_runs": 1, "leases": 2}
                return Answer(request=number, body=msgspec.json.encode(body))
            case _:
                return None

    return answer


def _one(found: list[Document], number: int, key: str) -> Reply:
    if not found:
        return Refusal(request=number, error="RunNotFoundError", message=f"no Run {key}")
    return Answer(request=number, body=msgspec.json.encode(found[0]))


def silent(question: Question) -> Reply | None:
    """Answers nothing, as one that is stopped."""
    return None
