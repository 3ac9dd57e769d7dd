"""The page's addresses, and what answers there.

    /                             the page; ?token=… opens it
    /static/…                     its parts
    /api/runs                     the list
    /api/runs/{key}               one Run, see `run.Page`; ?whole=1 gives each process a row
    /api/runs/{key}/console       lines; ?who=rank3 (repeatable), ?text=, ?count=
    /api/runs/{key}/files         files that were logged
    /api/runs/{key}/files/{id}    one of them
    /api/runs/{key}/texts         values of a series that is no number; ?name=
    /api/chart                    POST, `ChartAsked` as JSON: series of one or several Runs, thinned
    /api/live                     server-sent events; ?run= (repeatable), without it those of the list

Everything only reads. Answers under /api are JSON; an error is `{"error": text}` with a fitting status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import msgspec
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pluto_dist.errors import MachineError, PlutoDistError, RunNotFoundError
from pluto_dist.read.lookup import Lookup
from pluto_dist.ui.curves import Axis, chart_of
from pluto_dist.ui.live import Feed, ListFeed, RunFeed, Runs, events
from pluto_dist.ui.opened import Asked, Shelf
from pluto_dist.ui.run import download_name, file_of, files_of, lines_of, media_type, said_of

STATIC = Path(__file__).parent / "static"
LINES = 1000
MOST_LINES = 24  # in a chart; more cannot be told apart
MOST_RUNS = 12  # beside each other

Answering = Callable[[Request], Awaitable[Response]]


class ChartAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which chart.

    Attributes:
        runs: keys.
        asked: which series of each.
        axis: `step`, `time` (epoch milliseconds) or `elapsed` (seconds since the Run was made).
        first, last: the window on that axis.
        places: how many points there is room for.
    """

    runs: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MOST_RUNS)]
    asked: Asked
    axis: Axis = "step"
    first: float | None = None
    last: float | None = None
    places: Annotated[int, msgspec.Meta(ge=4, le=4000)] = 600


_chart_asked = msgspec.json.Decoder(ChartAsked)


class Pages:
    """What answers.

    Args:
        make: a lookup with what takes its remarks.
        only_store: of the Runs of the node only those of the store that is looked at.
        stopping: whether the server is about to end.
    """

    def __init__(
        self,
        make: Callable[[Callable[[str], object]], Lookup],
        *,
        only_store: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._runs = Runs(make, only_store=only_store)
        self._shelf = Shelf(lambda: make(lambda _: None))
        self._stopping = stopping

    def app(self) -> Starlette:
        """The application, without the guard."""
        return Starlette(
            routes=[
                Route("/", self._page),
                Mount("/static", StaticFiles(directory=STATIC)),
                Route("/api/runs", _answered(self._list)),
                Route("/api/runs/{key}", _answered(self._run)),
                Route("/api/runs/{key}/console", _answered(self._console)),
                Route("/api/runs/{key}/files", _answered(self._files)),
                Route("/api/runs/{key}/files/{file_id}", _answered(self._file)),
                Route("/api/runs/{key}/texts", _answered(self._texts)),
                Route("/api/chart", self._chart, methods=["POST"]),
                Route("/api/live", self._live),
            ]
        )

    async def _page(self, _: Request) -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    def _list(self, _: Request) -> Response:
        return _json(self._runs.look())

    def _run(self, asked: Request) -> Response:
        return _json(self._shelf.run(_key(asked)).page(whole="whole" in asked.query_params))

    def _console(self, asked: Request) -> Response:
        wanted = asked.query_params
        run = self._shelf.run(_key(asked)).run()
        count = wanted.get("count", "")
        most = int(count) if count.isdecimal() and len(count) < 9 else LINES
        return _json(lines_of(run, wanted.getlist("who"), wanted.get("text", ""), most))

    def _files(self, asked: Request) -> Response:
        return _json(files_of(self._shelf.run(_key(asked)).run()))

    def _file(self, asked: Request) -> Response:
        file = file_of(self._shelf.run(_key(asked)).run(), asked.path_params["file_id"])
        if file is None or file.path is None:
            raise RunNotFoundError("this machine does not have that file")
        kind = media_type(file.file_name)
        return FileResponse(
            file.path,
            media_type=kind or "application/octet-stream",
            filename=download_name(file.path, file),
            content_disposition_type="inline" if kind else "attachment",
            headers={"Content-Security-Policy": "default-src 'none'; sandbox"},
        )

    def _texts(self, asked: Request) -> Response:
        run = self._shelf.run(_key(asked)).run()
        return _json(said_of(run, asked.query_params.get("name", "")))

    async def _chart(self, asked: Request) -> Response:
        try:
            wanted = _chart_asked.decode(await asked.body())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _error(f"no chart can be made of this: {error}", HTTPStatus.BAD_REQUEST)
        return await run_sync(_caught, lambda: self._drawn(wanted))

    def _drawn(self, wanted: ChartAsked) -> Response:
        lines = [
            line for key in wanted.runs for line in self._shelf.run(key).lines(wanted.asked, wanted.axis)
        ]
        return _json(chart_of(lines, wanted.places, wanted.first, wanted.last, MOST_LINES))

    async def _live(self, asked: Request) -> Response:
        keys = list(dict.fromkeys(asked.query_params.getlist("run")))[:MOST_RUNS]
        whole = "whole" in asked.query_params
        feeds: list[Feed] = [RunFeed(self._shelf.run(key), key, whole=whole) for key in keys]
        feeds = feeds or [ListFeed(self._runs)]
        return StreamingResponse(events(feeds, self._stopping), media_type="text/event-stream")


def _key(asked: Request) -> str:
    key: str = asked.path_params["key"]
    return key


def _answered(answer: Callable[[Request], Response]) -> Answering:
    """Runs what reads files in a thread, and turns its errors into answers."""

    @wraps(answer)
    async def answering(asked: Request) -> Response:
        return await run_sync(_caught, lambda: answer(asked))

    return answering


def _caught(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except RunNotFoundError as error:
        return _error(error.message, HTTPStatus.NOT_FOUND)
    except MachineError as error:
        return _error(error.message, HTTPStatus.CONFLICT)
    except PlutoDistError as error:
        return _error(error.message, HTTPStatus.BAD_REQUEST)
    except OSError as error:
        return _error(str(error), HTTPStatus.INTERNAL_SERVER_ERROR)


def _error(text: str, status: HTTPStatus) -> Response:
    return _json({"error": text}, status)


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
