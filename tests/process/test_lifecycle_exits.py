"""Every way in which a lone owner can leave, and what becomes of its Run (G7, R9, R10).

All scripts run beside each other on one node: the next one is started when this one has logged, and their
graces pass together. The tests then look at one story each.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from tests.process.harness import Node, Script, events, lease, wait_until

POINTS = 3


class End(NamedTuple):
    """A way to leave.

    Attributes:
        body: what the script does after it has logged.
        status: final status of the Run.
        code: exit code of the process, a negative signal number if it died by one.
        failure: what the first failure must say, empty for none.
    """

    body: str
    status: str
    code: int
    failure: Mapping[str, Any] = {}
    before: str = ""


ENDS = {
    "last_line": End("", "COMPLETED", 0),
    "finish": End("run.finish()", "COMPLETED", 0),
    "finish_then_close_then_finish": End("run.finish(); run.close(); run.finish(code=1)", "COMPLETED", 0),
    "finish_code_0_after_a_caught_error": End(
        "try: 1 / 0\nexcept ZeroDivisionError: run.finish(code=0)",
        "COMPLETED",
        0,
        {"type": "ZeroDivisionError"},
    ),
    "finish_code_1": End("run.finish(code=1)", "FAILED", 0),
    "finish_code_15": End("run.finish(code=15)", "TERMINATED", 0),
    "module_finish": End("pluto.finish()", "COMPLETED", 0),
    "exception": End(
        "raise ValueError('boom')",
        "FAILED",
        1,
        {"kind": "exception", "type": "ValueError", "message": "boom"},
    ),
    "sys_exit_0": End("sys.exit(0)", "COMPLETED", 0),
    "sys_exit_3": End("sys.exit(3)", "FAILED", 3, {"kind": "exit", "exit_code": 3}),
    "exit_3": End("exit(3)", "FAILED", 3, {"kind": "exit", "exit_code": 3}),
    "sys_exit_of_no_int": End("sys.exit(2**70)", "FAILED", 255, {"kind": "exit", "exit_code": 255}),
    "sys_exit_text": End(
        "sys.exit('no data')", "FAILED", 1, {"kind": "exit", "exit_code": 1, "message": "no data"}
    ),
    "raise_system_exit_3": End("raise SystemExit(3)", "FAILED", 3, {"kind": "exit", "exit_code": 3}),
    "sys_exit_that_was_caught": End(
        "try: sys.exit(3)\nexcept SystemExit: log(run, {'late': 1.0}, 9)", "COMPLETED", 0
    ),
    "sys_exit_in_a_handler": End(
        "try: raise OSError('disk')\nexcept OSError: sys.exit(3)",
        "FAILED",
        3,
        {"kind": "exception", "type": "OSError", "message": "disk", "exit_code": 3},
    ),
    "sys_exit_of_a_signal_in_a_handler": End(
        "try: raise OSError('disk')\nexcept OSError: sys.exit(143)",
        "TERMINATED",
        143,
        {"kind": "exit", "exit_code": 143},
    ),
    "sys_exit_after_an_interrupt": End(
        "try: raise KeyboardInterrupt\nexcept KeyboardInterrupt: sys.exit(1)",
        "TERMINATED",
        1,
        {"type": "KeyboardInterrupt", "exit_code": 1},
    ),
    "sys_exit_0_in_a_handler": End(
        "try: raise StopIteration\nexcept StopIteration: sys.exit(0)", "COMPLETED", 0
    ),
    "sys_exit_in_a_handler_that_was_caught": End(
        "try: raise OSError('disk')\n"
        "except OSError:\n"
        "    try: sys.exit(3)\n"
        "    except SystemExit: log(run, {'late': 1.0}, 9)",
        "COMPLETED",
        0,
    ),
    "finally_finish": End(
        "try: raise KeyError('x')\nfinally: run.finish()",
        "FAILED",
        1,
        {"kind": "exception", "type": "KeyError"},
    ),
    "finally_finish_of_an_exit": End(
        "try: sys.exit(4)\nfinally: run.finish()", "FAILED", 4, {"kind": "exit", "exit_code": 4}
    ),
    "with_block": End("with run: pass", "COMPLETED", 0),
    "exception_in_with_block": End(
        "try:\n    with run: raise OSError('disk')\nexcept OSError: pass",
        "FAILED",
        0,
        {"kind": "exception", "type": "OSError", "message": "disk"},
    ),
    "exit_0_of_with_block": End("with run: sys.exit(0)", "COMPLETED", 0),
    "thread_exception": End(
        "def work(): raise ValueError('in thread')\n"
        "thread = threading.Thread(target=work, name='loader'); thread.start(); thread.join()",
        "COMPLETED",
        0,
    ),
    "sys_exit_in_thread": End(
        "thread = threading.Thread(target=sys.exit, args=(3,)); thread.start(); thread.join()", "COMPLETED", 0
    ),
    "keyboard_interrupt": End("raise KeyboardInterrupt", "TERMINATED", -2, {"type": "KeyboardInterrupt"}),
    "sigint": End(
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", "TERMINATED", -2, {"type": "KeyboardInterrupt"}
    ),
    "sigterm": End(
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "TERMINATED",
        -15,
        {"kind": "signal", "signal": "SIGTERM"},
    ),
    "sigterm_with_an_earlier_handler": End(
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "TERMINATED",
        0,
        {"kind": "signal", "signal": "SIGTERM"},
        before="signal.signal(signal.SIGTERM, lambda *_: (tell('handler'), sys.exit(0)))",
    ),
    "sigterm_with_a_handler_that_raises": End(
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "TERMINATED",
        1,
        {"kind": "signal", "signal": "SIGTERM"},
        before="def stop(*_): tell('handler'); raise RuntimeError('stop')\n"
        "signal.signal(signal.SIGTERM, stop)",
    ),
    "sigterm_with_a_handler_that_goes_on": End(
        "os.kill(os.getpid(), signal.SIGTERM); log(run, {'loss': 0.0}, 9); run.finish()",
        "TERMINATED",
        0,
        {"kind": "signal", "signal": "SIGTERM"},
        before="signal.signal(signal.SIGTERM, lambda *_: tell('handler'))",
    ),
    "sigterm_with_a_later_handler": End(
        "signal.signal(signal.SIGTERM, lambda *_: (tell('handler'), sys.exit(143)))\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "TERMINATED",
        143,
        {"kind": "signal", "signal": "SIGTERM"},
    ),
    "sigterm_with_a_later_handler_that_fails": End(
        "signal.signal(signal.SIGTERM, lambda *_: (tell('handler'), sys.exit(3)))\n"
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "TERMINATED",
        3,
        {"kind": "signal", "signal": "SIGTERM"},
    ),
    "sigterm_ignored": End(
        "os.kill(os.getpid(), signal.SIGTERM)",
        "COMPLETED",
        0,
        before="signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    ),
    "sighup": End(
        "os.kill(os.getpid(), signal.SIGHUP); time.sleep(60)",
        "TERMINATED",
        -1,
        {"kind": "signal", "signal": "SIGHUP"},
    ),
    "sigkill": End(
        "os.kill(os.getpid(), signal.SIGKILL)", "FAILED", -9, {"kind": "signal", "signal": "SIGKILL"}
    ),
    "segfault": End(
        "import ctypes; ctypes.string_at(0)", "FAILED", -11, {"kind": "signal", "signal": "SIGSEGV"}
    ),
    "os_exit_0": End("os._exit(0)", "COMPLETED", 0),
    "os_exit_5": End("os._exit(5)", "FAILED", 5, {"kind": "exit", "exit_code": 5}),
    "exec_of_another_program": End(
        "os.execv('/bin/sh', ['sh', '-c', 'exit 4'])", "FAILED", 4, {"kind": "exit", "exit_code": 4}
    ),
    "sigkill_while_many_threads_log": End(
        "def work(k):\n"
        "    for n in range(10**9): log(run, {f'thread{k}': float(n)}, n)\n"
        "for k in range(4): threading.Thread(target=work, args=(k,), daemon=True).start()\n"
        "time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)",
        "FAILED",
        -9,
        {"kind": "signal", "signal": "SIGKILL"},
    ),
}

SCRIPT = """
{before}
run = pluto.init(run_id="{name}", project="exits")
for step in range({points}):
    log(run, {{"loss": step / 7, "note": f"step {{step}}"}}, step)
tell_json("ready", facts(run))
{body}
"""


@pytest.fixture(scope="module")
def scripts(shared_node: Node) -> dict[str, Script]:
    """One process for each end, all of them on their way or gone."""
    started = {}
    for name, end in ENDS.items():
        body = SCRIPT.format(before=end.before, name=name, points=POINTS, body=end.body)
        started[name] = shared_node.start(body, name=name)
        started[name].expect("ready")
    return started


@pytest.mark.parametrize("name", ENDS)
def test_status_follows_from_how_the_owner_left(
    shared_node: Node, scripts: dict[str, Script], name: str
) -> None:
    """G7, R9: status, culprit and every point are right, however the process went."""
    end, script = ENDS[name], scripts[name]
    assert script.wait() == end.code
    found = shared_node.ended(name)
    assert found["status"] == end.status == found["verdict"]["status"]
    failure = found["verdict"]["first_failure"]
    if end.failure:
        assert {key: failure[key] for key in end.failure} == end.failure
        assert (failure["role"], failure["pid"]) == ("owner", script.pid)
    else:
        assert failure is None
    assert ("handler" in script.lines) == ("handler" in end.before + end.body)
    assert not shared_node.lost(name)
    assert len([point for point in shared_node.points(name) if point.name == "note"]) == POINTS
    owner = lease(found, role="owner")
    assert owner["state"] == "ended"
    assert owner["epoch"] == found["epoch"] == 1
    assert (found["pending"], found["rejected"], found["dropped"]) == (0, 0, 0)


def test_ids_of_one_project_are_in_sequence(shared_node: Node, scripts: dict[str, Script]) -> None:
    """Ids are the store's, display ids the project's; both count from 1 in the order of creation."""
    found = [document for document in shared_node.documents() if document["project"] == "exits"]
    assert [document["id"] for document in found] == list(range(1, len(ENDS) + 1))
    assert [document["display_id"] for document in found] == [f"EXI-{n}" for n in range(1, len(ENDS) + 1)]
    assert [document["run_id"] for document in found] == list(ENDS)


def test_an_exception_in_a_thread_is_an_event(shared_node: Node, scripts: dict[str, Script]) -> None:
    """R9: a thread may fail and be caught; the Run's status does not follow it."""
    noted = events(shared_node.ended("thread_exception"), "thread_exception")
    assert [(note["thread"], note["type"], note["message"]) for note in noted] == [
        ("loader", "ValueError", "in thread")
    ]


def test_what_the_owner_prints(shared_node: Node, scripts: dict[str, Script]) -> None:
    """One line at init and one at the end, on stderr; a failure names the culprit."""
    scripts["finish"].wait()
    first, last = scripts["finish"].stderr.splitlines()
    assert first.startswith("pluto_dist: started Run EXI-2 (finish, project exits) (local, ")
    assert last.startswith("pluto_dist: Run EXI-2 (finish, project exits) COMPLETED, 6 points; look: ")
    scripts["last_line"].wait()  # only the kernel will know its exit code, but nothing speaks against it
    assert " COMPLETED, 6 points; look: " in scripts["last_line"].stderr
    scripts["finally_finish"].wait()
    shown = [line for line in scripts["finally_finish"].stderr.splitlines() if " FAILED " in line]
    assert len(shown) == 1
    assert "KeyError: 'x'" in shown[0]
    scripts["sys_exit_text"].wait()  # the interpreter prints the text, which is recorded and says nothing new
    printed, last = scripts["sys_exit_text"].stderr.splitlines()[-2:]
    assert printed == "no data"
    assert " FAILED (" in last
    assert " failed first: exit code 1: no data)" in last


def test_closed_owner_leaves_the_run_detached(node: Node) -> None:
    """R6: `close()` sends no status and takes the exit hook away; the Run may be taken up again."""
    script = node.start(
        """
        run = pluto.init(run_id="closed")
        log(run, {"loss": 1.0}, 0)
        run.close()
        run.finish(); run.close()
        sys.exit(3)
        """
    )
    assert script.wait() == 3
    found = wait_until(lambda: (d := node.document("closed"))["phase"] == "detached" and d, "detached")
    assert (found["status"], found["verdict"], found["ended_at"]) == ("RUNNING", None, None)
    assert lease(found, role="owner")["end_reason"] == "closed"
    assert not node.lost("closed")


def test_an_interrupted_init_leaves_no_run_behind_that_runs(node: Node) -> None:
    """R6, R9: Ctrl-C in `init()`, also where it is caught, as in a notebook; the Run was made meanwhile."""
    script = node.start("""
        from pluto_dist.client import lease
        wait = lease.Lease.wait_granted
        def interrupted(*what):
            wait(*what)
            raise KeyboardInterrupt
        lease.Lease.wait_granted = interrupted
        try: pluto.init(run_id="stopped")
        except KeyboardInterrupt: tell("caught")
        hear()
    """)
    script.expect("caught")
    found = node.ended("stopped")
    assert found["status"] == "TERMINATED", found["verdict"]
    assert found["verdict"]["first_failure"]["type"] == "KeyboardInterrupt"


def test_an_error_at_a_prompt_does_not_end_the_run(node: Node) -> None:
    """R9: the interactive interpreter goes on after an error, and so does the Run."""
    path = node.base / "prompt.py"
    path.write_text("from tests.process.stage import *\nrun = pluto.init(run_id='prompt')\n")
    script = node.keep(Script("prompt", *node.spawn([sys.executable, "-i", str(path)], "prompt")))
    script.say("1 / 0")
    script.say("log(run, {'loss': 1.0}, 0); tell('went on')")
    script.expect("went")
    script.say("exit()")
    assert script.wait() == 0
    assert "ZeroDivisionError" in script.stderr
    assert node.ended("prompt")["status"] == "COMPLETED"
