"""The API key is in the trainer's environment because its user put it there, and nowhere else (G11)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.pluto_server.server import KEY
from tests.process.harness import holding, wait_until
from tests.process.served import Served

OPENED = """
    import subprocess
    run = pluto.init(run_id="secret", settings={"console": "fd"})
    log(run, {"loss": 1.0}, 0)
    print("a line")
    tell("ready")
    hear()
    log(run, {"loss": 2.0}, 1)
    tell("logged")
    hear()
"""


def traces(served: Served, *pids: int) -> Iterator[str]:
    """Where the key can be read: command lines, environments of ours, files, what was printed."""
    secret = KEY.encode()
    for pid in pids:
        for part in ("cmdline", "environ"):
            if secret in Path(f"/proc/{pid}/{part}").read_bytes():
                yield f"{part} of {pid}"
    yield from map(str, holding(served.base, secret))


def helpers(served: Served, script_pid: int) -> list[int]:
    """Every process that the package has started: the coordinator, and the trainer's children."""
    children = psutil.Process(script_pid).children(recursive=True)
    return [*served.coordinators(), *(child.pid for child in children)]


def test_the_key_can_be_read_nowhere(served: Served) -> None:
    """G11: argv, environments, spool, store, database, logs, while it runs and after."""
    script = served.start(OPENED)
    script.expect("ready")
    wait_until(lambda: served.missing("secret") == [], "the first point")
    assert helpers(served, script.pid)
    assert list(traces(served, *helpers(served, script.pid))) == []
    script.say()
    script.expect("logged")
    script.say()
    assert script.wait() == 0
    served.ended_remotely("secret")
    assert list(traces(served)) == []


def test_a_new_coordinator_gets_the_key_from_the_processes_that_are_there(served: Served) -> None:
    """G12, G11: it was in memory only."""
    script = served.start(OPENED)
    script.expect("ready")
    wait_until(lambda: served.missing("secret") == [], "the first point")
    served.kill_coordinator()
    script.say()
    script.expect("logged")
    wait_until(lambda: served.missing("secret") == [], "the point after the restart")
    assert list(traces(served, *helpers(served, script.pid))) == []
    script.say()
    assert script.wait() == 0
    assert served.ended_remotely("secret")["status"] == "COMPLETED"


def test_errors_do_not_quote_the_key(served: Served) -> None:
    """G11: what is wrong with a key is said without it."""
    script = served.start("""
        for key in ("mlps_WRONGSECRET", "mlps WRONGSECRET", "mlps_WRONGSECRET\\u00e9"):
            try:
                pluto.init(run_id="r", settings={"api_key": key})
            except pluto.errors.PlutoDistError as error:
                tell("refused", type(error).__name__, error, repr(error), error.fields)
    """)
    for error in ("KeyRefusedError", "SettingError", "SettingError"):
        refused = script.expect("refused")
        assert refused.startswith(error)
        assert "WRONGSECRET" not in refused
    assert script.wait() == 0
    assert "WRONGSECRET" not in served.log + script.stderr
