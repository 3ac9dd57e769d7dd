"""The page's server: what it answers, to whom, and what it says of what cannot be read."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest

from pluto_dist.backend.local.files import relative_place
from pluto_dist.core.values.document import VerdictShown
from pluto_dist.core.values.records import Failure, Point, SeriesOwner
from pluto_dist.errors import MachineError, UsageError
from pluto_dist.read.lookup import Lookup
from pluto_dist.spool.file_lines import FileLine, encode_line
from pluto_dist.spool.frames import encode_frame
from pluto_dist.ui.app import STATIC
from pluto_dist.ui.serve import PORT, Server
from tests.adapters.commandline import invoke
from tests.adapters.documents import lease
from tests.adapters.serving import serving
from tests.adapters.test_cli_lookup import Machine
from tests.adapters.test_read import put
from tests.patience import PATIENCE_S

CHECKOUT = Path(__file__).parents[2]

EVIL = '<img src=x onerror="window.evil = 1">'
FAILURE = Failure(
    role="worker",
    label="rank1",
    rank=1,
    host="node",
    pid=101,
    attempt=0,
    kind="exception",
    type="ValueError",
    message=EVIL,
    traceback="Traceback\nValueError: no",
    at=5000,
)


class World:
    """A store with a Run that failed, a newer one and a damaged one; a client of the page."""

    def __init__(self, machine: Machine, address: str) -> None:
        self.machine, self.address = machine, address
        parts = urlsplit(address)
        self.base = f"http://{parts.netloc}"
        self.token = parse_qs(parts.query)["token"][0]
        self.client = httpx.Client(
            base_url=self.base, headers={"Authorization": f"Bearer {self.token}"}, timeout=PATIENCE_S
        )

    def get(self, path: str, code: int = 200) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == code, answer.text
        return answer.json()

    def chart(self, code: int = 200, **asked: Any) -> Any:
        answer = self.client.post("/api/chart", json={"runs": ["key-1"], **asked})
        assert answer.status_code == code, answer.text
        return answer.json()


def record(step: int, **values: object) -> bytes:
    inside = ",".join(f'"{name}":{value}' for name, value in values.items())
    return b'{"time":%d,"step":%d,"data":{%s}}\n' % (1000 + step, step, inside.encode())


def stream(machine: Machine, name: str, *lines: bytes, lease_id: str = "b") -> None:
    folder = machine.store.run("key-1") / "streams" / lease_id
    folder.mkdir(parents=True, exist_ok=True)
    frames = (encode_frame(line, sequence=number) for number, line in enumerate(lines))
    (folder / f"{name}-00000001.spool").write_bytes(b"".join(frames))


def failed_run(machine: Machine) -> None:
    """A Run of two ranks and an eval, rank 1 of which failed."""
    ended: dict[str, Any] = {"state": "ended", "ended_at": 5000, "end_reason": "finished"}
    series = {
        "loss": SeriesOwner("owner", "METRIC", {"rank1": "loss/rank1", "eval": "loss/eval"}),
        "nothing": SeriesOwner("owner", "METRIC"),
        "pictures": SeriesOwner("rank1", "IMAGE"),
    }
    leases = (
        lease("a", rank=0, pid=100, **ended),
        lease("b", "rank1", pid=101, **{**ended, "end_reason": "died"}),
        lease("c", "eval", pid=102, **ended),
        lease("n", "node", pid=0, **ended),
    )
    names = ("loss", "loss/rank1", "loss/eval", "nothing")
    document = msgspec.structs.replace(
        machine.here("key-1", series=series),
        leases=leases,
        name=EVIL,
        status="FAILED",
        ended_at=6000,
        config=msgspec.Raw(b'{"lr":0.5,"name":"<b>x</b>"}'),
        verdict=VerdictShown("FAILED", "rank1 failed first", FAILURE),
        series={"loss": {"rank1": "loss/rank1", "eval": "loss/eval"}},
        summary={
            **{name: Point(0.5, 99, 100) for name in names},
            "pictures": Point("a.png", 3, 2),
        },
    )
    machine.keep(document)
    for lease_id, more in (("a", 0), ("b", 10), ("c", 100)):
        steps = range(100)
        put(machine, "key-1", lease_id, [record(step, loss=step + more, nothing="NaN") for step in steps])
    cores = ("sys/cpu.percentage.0", "sys/cpu.percentage.1")
    samples = [(1.0, "NaN"), (3.0, 40.0)]
    lines = [record(step, **dict(zip(cores, each, strict=True))) for step, each in enumerate(samples)]
    put(machine, "key-1", "n", lines)
    said = b'{"time":%d,"message":"%s","logType":"%s"}\n'
    lines = [said % (n, b"line %d" % n, b"INFO") for n in range(30)]
    stream(machine, "console", *lines, said % (40, b"Out of Memory", b"ERROR"))
    files = [FileLine(path="", file_name=name, file_type="", log_name="pictures", step=3, time=9) for name in
             ("a.png", "b.svg")]  # fmt: skip
    stream(machine, "files", *map(encode_line, files))
    for file in files:
        path = machine.store.run("key-1") / relative_place(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"<svg onload=alert(1)>")
    text = b'{"time":1,"step":2,"data":"warmup","dataType":"string-series","logName":"phase"}\n'
    stream(machine, "data", text)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    machine = Machine()
    failed_run(machine)
    newer = json.loads(machine.store.document("key-1") or b"")
    machine.store.write_document("key-2", json.dumps({**newer, "key": "key-2", "format": 99}).encode())
    machine.store.write_document("key-3", b'{"half')
    with serving(machine.home, machine.base) as address:
        made = World(machine, address)
        with made.client:
            yield made
    shutil.rmtree(machine.base)


def test_the_printed_address_opens_the_page_and_its_token_leaves_the_address(world: World):
    assert httpx.get(world.base).status_code == 401
    assert httpx.get(f"{world.base}/api/runs").status_code == 401
    wrong = httpx.get(f"{world.base}/?token=wrong")
    assert (wrong.status_code, "pluto-dist ui" in wrong.text) == (401, True)
    with httpx.Client(base_url=world.base) as person:
        opened = person.get(f"/?token={world.token}")
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        cookie = opened.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        page = person.get("/")
        assert page.status_code == 200
        assert world.token not in page.text
        assert len(person.get("/api/runs").json()["runs"]) == 2


def test_other_sites_get_nothing_even_with_the_token(world: World):
    for headers, code in (
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ):
        answer = world.client.get("/api/runs", headers=headers)
        assert (answer.status_code, "key-1" in answer.text) == (code, False)


def test_nothing_may_be_loaded_from_elsewhere_or_kept(world: World):
    headers = world.client.get("/api/runs").headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_the_list_has_what_can_be_read_and_says_what_cannot(world: World):
    seen = world.get("/api/runs")
    assert sorted(row["key"] for row in seen["runs"]) == ["key-1", "key-2"]
    first = next(row for row in seen["runs"] if row["key"] == "key-1")
    assert (first["name"], first["status"], first["standing"]) == (EVIL, "FAILED", "ended")
    assert any("key-3" in remark for remark in seen["remarks"])


@pytest.mark.parametrize(
    ("key", "code", "reason"),
    [("key-2", 409, "format 99"), ("key-3", 404, "key-3"), ("nothing", 404, "nothing")],
)
def test_a_run_that_cannot_be_read_is_an_error_with_its_reason(
    world: World, key: str, code: int, reason: str
):
    assert reason in world.get(f"/api/runs/{key}", code)["error"]
    assert reason in world.chart(code, runs=[key], asked={"metric": "loss"})["error"]


def test_a_run_says_why_who_failed_first_and_with_which_last_words(world: World):
    page = world.get("/api/runs/key-1")
    assert (page["status"], page["why"]) == ("FAILED", "rank1 failed first")
    assert page["failure"]["how"] == f"ValueError: {EVIL}"
    assert page["failure"]["last_lines"][-1]["message"] == "Out of Memory"
    assert page["rows"][0]["who"] == "rank1"
    assert [lane["label"] for lane in page["timeline"]["lanes"]] == ["owner", "rank1", "eval"]
    metrics = {metric["name"]: (metric["members"], metric["others"]) for metric in page["metrics"]}
    assert metrics == {"loss": (2, ["loss/eval"]), "nothing": (1, [])}
    assert [(other["name"], other["kind"]) for other in page["others"]] == [("pictures", "IMAGE")]
    assert page["processes"] == 3
    assert page["sampled"] == ["sys/cpu.percentage.0", "sys/cpu.percentage.1"]
    assert page["machines"][0]["cpu"] == 21.5
    assert page["config"] == {"lr": 0.5, "name": "<b>x</b>"}


def test_ranks_are_a_band_and_a_side_stands_beside_it(world: World):
    lines = world.chart(asked={"metric": "loss"})["lines"]
    assert [(line["band"], line["label"]) for line in lines] == [(2, "2 series"), (1, "eval")]
    assert (lines[0]["low"][7], lines[0]["mean"][7], lines[0]["high"][7]) == (7, 12, 17)
    apart = world.chart(asked={"metric": "loss", "lines": True})["lines"]
    assert [line["rank"] for line in apart] == [0, 1, None]
    named = world.chart(asked={"names": ["loss", "loss/eval"]}, axis="elapsed", first=0, last=0.01)
    assert named["x"][0] == 0


def test_a_chart_of_nan_alone_and_of_no_such_name(world: World):
    lines = world.chart(asked={"metric": "nothing"})["lines"]
    assert [(line["count"], line["odd"]) for line in lines] == [(200, 200), (100, 100)]
    assert world.chart(asked={"metric": "nowhere"})["lines"] == []


@pytest.mark.parametrize(
    "asked",
    [{"runs": []}, {"runs": ["k"] * 99}, {"asked": {}, "places": 10**9}, {"axis": "wall"}, {"more": 1}],
)
def test_a_question_that_makes_no_sense_is_refused(world: World, asked: dict[str, Any]):
    assert "no chart" in world.chart(400, **{"asked": {"metric": "loss"}, **asked})["error"]
    assert world.client.post("/api/chart", content=b"\xff{").status_code == 400


def test_the_console_is_searched_and_cut(world: World):
    newest = world.get("/api/runs/key-1/console?who=rank1&count=5")
    assert [line["message"] for line in newest["lines"]][-1] == "Out of Memory"
    assert (len(newest["lines"]), newest["cut"]) == (5, True)
    found = world.get("/api/runs/key-1/console?text=MEMORY")
    assert (found["found"], found["lines"][0]["speaker"]) == (1, "rank1")
    assert world.get("/api/runs/key-1/console?who=eval")["lines"] == []


def test_files_are_shown_only_where_they_cannot_run(world: World):
    """A logged SVG may hold a script: it is a download; what is shown has its own type and may do nothing."""
    files = {file["file_name"]: file for file in world.get("/api/runs/key-1/files")}
    assert [file["media"] for file in files.values()] == ["image/png", ""]
    for name, kind, way in (
        ("a.png", "image/png", "inline"),
        ("b.svg", "application/octet-stream", "attach"),
    ):
        answer = world.client.get(f"/api/runs/key-1/files/{files[name]['file_id']}")
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"].startswith(way)
        assert "sandbox" in answer.headers["content-security-policy"]
    assert world.client.get("/api/runs/key-1/files/..%2f..%2frun.json").status_code == 404
    assert world.client.get("/static/..%2fguard.py").status_code == 404


def test_texts_are_read(world: World):
    assert [said["value"] for said in world.get("/api/runs/key-1/texts?name=phase")] == ["warmup"]


def test_events_begin_with_everything_and_tell_what_grows(world: World):
    with world.client.stream("GET", "/api/live?run=key-1") as live:
        lines = live.iter_lines()
        assert next(lines) == "event: page"
        assert json.loads(next(lines).removeprefix("data: "))["key"] == "key-1"
        put(world.machine, "key-1", "a", [record(100, loss=1)], first=100)
        told = next(line for line in lines if line.startswith("event: "))
        assert told == "event: points"
        assert json.loads(next(lines).removeprefix("data: ")) == {"run": "key-1"}
    with world.client.stream("GET", "/api/live?run=key-2") as live:
        lines = live.iter_lines()
        assert next(lines) == "event: trouble"
        assert "format 99" in next(lines)
    with world.client.stream("GET", "/api/live") as live:
        lines = live.iter_lines()
        assert next(lines) == "event: runs"
        assert len(json.loads(next(lines).removeprefix("data: "))["runs"]) == 2


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=rf"port {port} of 127.0.0.1 is taken.*--port 0"):
            Server(lambda take: Lookup(tmp_path, tmp_path, take), port=port)


def test_without_a_chosen_port_the_next_free_one_is_taken(tmp_path: Path):
    made = [Server(lambda take: Lookup(tmp_path, tmp_path, take), host) for host in ("127.0.0.1", "0.0.0.0")]
    ports = [urlsplit(server.address).port or 0 for server in made]
    assert PORT <= ports[0] < ports[1]
    assert [server.only_here for server in made] == [True, False]
    assert socket.gethostname() in made[1].address
    for server in made:
        server.close()


@pytest.mark.parametrize("host", ["no.such.name.invalid", "192.0.2.1"])
def test_a_host_that_is_not_here_is_an_error_that_says_what_to_do(tmp_path: Path, host: str):
    with pytest.raises(UsageError, match=r"127\.0\.0\.1"):
        Server(lambda take: Lookup(tmp_path, tmp_path, take), host, 0)


def test_the_page_names_no_address_but_its_own(world: World):
    """It works without a network; that it may not load anything from elsewhere says the policy above."""
    texts = {
        path.name: path.read_text() for path in STATIC.rglob("*") if path.suffix in (".html", ".css", ".js")
    }
    assert len(texts) > 20
    named = {
        address for text in texts.values() for address in re.findall(r"(?:https?:)?//[\w-]+\.[\w.-]+", text)
    }
    assert named == {"http://www.w3.org", "https://github.com"}  # of SVG; whose uPlot is
    assert "MIT" in (STATIC / "vendor" / "uPlot.LICENSE").read_text()
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', texts["index.html"]):
        assert world.client.get(name).status_code == 200


def test_files_of_the_page_are_part_of_the_package():
    known = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    patterns = known["tool"]["setuptools"]["package-data"]["pluto_dist"]
    kept = {path for pattern in patterns for path in STATIC.parent.parent.glob(pattern)}
    assert {path for path in STATIC.rglob("*") if path.is_file()} <= kept


def test_without_its_libraries_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("pluto_dist.ui")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = invoke(["ui"])
    assert done.exit_code == 2
    assert "uvicorn is not installed, which the page needs: pip install 'pluto-dist[ui]'" in done.stderr
