"""The recording of the real server, replayed: every status, content type, shape and text must agree."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .server import PlutoServer
from .sqids import encode
from .talk import Answer, send

RECORDED = [json.loads(line) for line in Path(__file__).with_name("recorded.jsonl").read_text().splitlines()]
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_HISTORICAL = "2020-"  # times that the requests themselves set
_RUN_KEYS = {"runId", "forkedFromRunId", "forkRunId"}


class Replay:
    """Plays the exchanges in order; ids of runs and their numbers are mapped as they come up."""

    def __init__(self, server: PlutoServer) -> None:
        self._server = server
        self._runs: dict[int, int] = {}
        self._numbers: dict[str, str] = {}

    def play(self, exchange: dict[str, Any]) -> str | None:
        """Play one exchange; what differs, None when nothing does."""
        self._set_up(exchange["note"])
        answer = self._send(exchange)
        self._learn(exchange, answer)
        expected = (exchange["status"], exchange["content_type"], self._expected(exchange))
        actual = (answer.status, answer.headers.get("content-type"), _neutral(_decoded(answer.text)))
        return None if actual == expected else f"expected {expected}\n     got {actual}"

    def _set_up(self, note: str) -> None:
        """What was done beside the recorded exchanges."""
        if note == "no runName":
            self._race()
        if note == "fork at 50":
            now_ms = self._server.operator.now_ms()
            points = [(step, now_ms, 0.0) for step in range(101)]
            self._server.operator.add_points(self._runs[26], "m", points)
        if note.startswith("trigger after a CANCEL trigger"):
            self._server.operator.cancel(self._runs[2])

    def _race(self) -> None:
        for project in ("my-ml-project", "race"):
            self._server.operator.configure(race_window=8)
            statuses = create_at_once(self._server, project, f"racing-{project}")
            assert 200 in statuses

    def _send(self, exchange: dict[str, Any]) -> Answer:
        base = {"api": self._server.urls.api, "py": self._server.urls.py}[exchange["service"]]
        path = re.sub(
            r"(details/|runId=)(\d+)", lambda m: m[1] + str(self._runs[int(m[2])]), exchange["path"]
        )
        return send(base + path, exchange["method"], self._body(exchange), exchange["headers"])

    def _body(self, exchange: dict[str, Any]) -> str | None:
        body: str | None = exchange["body"]
        if exchange.get("body_cut"):
            names = [f"many/{number}" for number in range(2000)]
            body = json.dumps({"runId": 1, "logName": names, "logType": "METRIC"})
        return (
            None if body is None else re.sub(r'("(?:runId|forkRunId)": "?)(\d+)(?=[,}"])', self._mapped, body)
        )

    def _mapped(self, match: re.Match[str]) -> str:
        recorded = int(match[2])
        return match[1] + str(self._runs.get(recorded, recorded))

    def _learn(self, exchange: dict[str, Any], answer: Answer) -> None:
        if exchange["path"] == "/api/runs/create" and (exchange["method"], answer.status) == ("POST", 200):
            recorded, actual = json.loads(exchange["response"]), answer.json
            self._runs[recorded["runId"]] = actual["runId"]
            self._numbers[f"{recorded['projectName']} {recorded['number']}"] = actual["number"]

    def _expected(self, exchange: dict[str, Any]) -> Any:
        return _neutral(self._translated(_decoded(exchange["response"])))

    def _translated(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._translated(item) for item in value]
        if not isinstance(value, dict):
            return value
        translated = {key: self._translated(item) for key, item in value.items()}
        for key in _RUN_KEYS & value.keys():
            translated[key] = self._runs.get(value[key], value[key])
        if "displayId" in value:
            self._translate_run(value, translated)
        if "marked_failed" in value:
            translated["marked_failed"] = [self._runs[run_id] for run_id in value["marked_failed"]]
        return translated

    def _translate_run(self, recorded: dict[str, Any], translated: dict[str, Any]) -> None:
        number = self._numbers[f"{recorded['projectName']} {recorded['number']}"]
        translated["number"] = number
        translated["displayId"] = f"{recorded['displayId'].rpartition('-')[0]}-{number}"
        if "id" in recorded:
            translated["id"] = self._runs[recorded["id"]]
        if "url" in recorded:
            translated["url"] = f"{recorded['url'].rpartition('/')[0]}/{encode(translated['runId'])}"


def _decoded(text: str) -> Any:
    return json.loads(text) if text.startswith(("{", "[")) else text


def _neutral(value: Any) -> Any:
    """Times of the day and the ids of projects and events differ from run to run."""
    if isinstance(value, list):
        return [_neutral(item) for item in value]
    if isinstance(value, str):
        return "a time" if _TIME.fullmatch(value) and not value.startswith(_HISTORICAL) else value
    if not isinstance(value, dict):
        return value
    neutral = {key: _neutral(item) for key, item in value.items()}
    if "runCount" in value or "fromStatus" in value:
        neutral["id"] = type(value["id"]).__name__
    return neutral


def create_at_once(server: PlutoServer, project: str, external_id: str) -> list[int]:
    """Eight creates at once; all that succeed must name one run. The statuses."""
    body = json.dumps({"runName": "r", "projectName": project, "externalId": external_id})
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: send(f"{server.urls.api}/api/runs/create", "POST", body, headers), range(8))
        )
    assert len({answer.json["runId"] for answer in answers if answer.status == 200}) == 1
    assert sum(answer.status == 200 and not answer.json["resumed"] for answer in answers) == 1
    return sorted(answer.status for answer in answers)


@pytest.fixture(scope="module")
def replayed() -> list[str | None]:
    """What differs, for each exchange."""
    with PlutoServer() as server:
        replay = Replay(server)
        return [replay.play(exchange) for exchange in RECORDED]


@pytest.mark.parametrize("number", range(len(RECORDED)), ids=lambda n: f"{n}: {RECORDED[n]['note'][:40]}")
def test_exchange_is_as_recorded(replayed: list[str | None], number: int) -> None:
    """Every exchange of the recording agrees."""
    difference = replayed[number]
    exchange = RECORDED[number]
    asked = f"{exchange['method']} {exchange['path']} {(exchange['body'] or '')[:300]}"
    assert difference is None, (
        f"exchange {number} ({exchange['section']}: {exchange['note']}): {asked}\n{difference}"
    )


def test_recording_is_complete() -> None:
    """All 164 exchanges are replayed."""
    assert len(RECORDED) == 164


def test_sqids_are_as_recorded() -> None:
    """The short ids in addresses are the server's own."""
    created = [
        json.loads(e["response"]) for e in RECORDED if e["path"] == "/api/runs/create" and e["status"] == 200
    ]
    urls = {run["runId"]: run["url"].rpartition("/")[2] for run in created if "url" in run}
    assert len(urls) > 15
    assert urls == {run_id: encode(run_id) for run_id in urls}
