"""SIGTERM: ranks get a chance to save, and nothing depends on the main thread (R9, R10)."""

from __future__ import annotations

import signal

import pytest

from tests.process.harness import Node, Script, events

TRAIN = """
run = pluto.init(run_id="job"{settings})
log(run, {{"loss": 1.0}}, 0)
{before}
tell("ready")
{body}
"""


def start(node: Node, body: str, before: str = "", settings: str = "") -> Script:
    script = node.start(TRAIN.format(body=body, before=before, settings=settings))
    script.expect("ready")
    return script


LOOP = "while not run.preempted: time.sleep(0.01)\nlog(run, {'saved': 1.0}, 1)\n"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", "TERMINATED"),
        ("run.finish()", "TERMINATED"),
        ("run.finish(code=0)", "COMPLETED"),
        ("sys.exit(0)", "TERMINATED"),
    ],
)
def test_a_loop_that_looks_at_preempted_ends_by_itself(node: Node, end: str, status: str) -> None:
    """R10: what follows the first SIGTERM is its consequence, unless the owner says otherwise."""
    script = start(node, LOOP + end, "run.preempted")
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    found = node.ended("job")
    assert found["status"] == status
    assert found["verdict"]["first_failure"]["signal"] == "SIGTERM"
    assert not node.lost("job")
    assert {point.name for point in node.points("job")} == {"loss", "saved"}


def test_a_loop_that_looks_and_does_not_end_is_ended(node: Node) -> None:
    """The trust in a script that looks at `preempted` has a bound."""
    script = start(
        node, "while True: time.sleep(0.01)", "run.preempted", ", settings={'preempt_wait_s': 0.3}"
    )
    script.signal(signal.SIGTERM)
    assert script.wait() == -signal.SIGTERM
    assert node.ended("job")["status"] == "TERMINATED"


CHAINED = """
asked, ours = threading.Event(), signal.getsignal(signal.SIGTERM)
def stop(*what):
    asked.set()
    if callable(ours):
        ours(*what)
signal.signal(signal.SIGTERM, stop)
"""


def test_a_handler_that_has_replaced_ours_and_calls_it_is_trusted_too(node: Node) -> None:
    """R9: without us it would have had nothing to call, and would have ended by itself."""
    script = start(node, "while not asked.is_set(): time.sleep(0.01)\nlog(run, {'saved': 1.0}, 1)", CHAINED)
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    assert node.ended("job")["status"] == "TERMINATED"
    assert not node.lost("job")


def test_the_trust_in_a_handler_that_has_replaced_ours_has_a_bound(node: Node) -> None:
    """G5: it is ended as a script that looks and does not end."""
    script = start(node, "while True: time.sleep(0.01)", CHAINED, ", settings={'preempt_wait_s': 0.3}")
    script.signal(signal.SIGTERM)
    assert script.wait() == -signal.SIGTERM
    assert node.ended("job")["status"] == "TERMINATED"


def test_a_second_sigterm_ends_it_at_once(node: Node) -> None:
    script = start(
        node, "while not run.preempted: time.sleep(0.01)\ntell('seen')\ntime.sleep(60)", "run.preempted"
    )
    script.signal(signal.SIGTERM)
    script.expect("seen")
    script.signal(signal.SIGTERM)
    assert script.wait() == -signal.SIGTERM
    assert node.ended("job")["status"] == "TERMINATED"


def test_callbacks_run_once_before_the_process_leaves(node: Node) -> None:
    """They run in the main thread and may log; one that fails is an event."""
    before = """
def fail(): raise OSError("no checkpoint")
def save():
    tell("save", threading.current_thread() is threading.main_thread(), run.preempted)
    log(run, {"saved": 1.0}, 1)
run.on_preempt(fail); run.on_preempt(save)
"""
    script = start(node, "time.sleep(60)", before.replace(", run.preempted", ""))
    script.signal(signal.SIGTERM)
    assert script.expect("save") == "True"
    assert script.wait() == -signal.SIGTERM
    found = node.ended("job")
    assert found["status"] == "TERMINATED"
    assert [event["message"] for event in events(found, "preempt_callback_failed")] == ["no checkpoint"]
    assert not node.lost("job")


IN_A_CALL = """
import ctypes
libc = ctypes.CDLL(None)
def stuck():
    "Waits for itself inside of C; a signal does not wake it."
    lock = ctypes.create_string_buffer(64)
    libc.pthread_mutex_init(lock, None)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)
"""
NOTICED = """
def notice():
    while not run.preempted: time.sleep(0.01)
    tell("noticed")
threading.Thread(target=notice, daemon=True).start()
"""


def test_sigterm_is_told_while_the_main_thread_is_inside_of_a_call(node: Node) -> None:
    """R9: no Python handler runs there, and the SIGKILL that follows is a consequence."""
    script = start(node, "stuck()", IN_A_CALL + NOTICED)
    script.signal(signal.SIGTERM)
    script.expect("noticed")
    script.kill()
    assert script.wait() == -signal.SIGKILL
    found = node.ended("job")
    assert found["status"] == "TERMINATED"
    assert found["verdict"]["first_failure"]["signal"] == "SIGTERM"


def test_a_handler_that_replaced_ours_hides_nothing(node: Node) -> None:
    """R9: frameworks install their own handlers after `init()`."""
    script = start(node, "time.sleep(60)", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))")
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    assert node.ended("job")["status"] == "TERMINATED"


def test_a_process_that_ignores_sigterm_goes_on_ignoring_it(node: Node) -> None:
    """It is recorded all the same: what ends the process later is its consequence."""
    script = node.start("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run = pluto.init(run_id="job")
        tell("ready")
        tell("heard", hear())
        time.sleep(60)
    """)
    script.expect("ready")
    script.signal(signal.SIGTERM)
    script.say("still here")
    assert script.expect("heard") == "still here"
    script.kill()
    assert node.ended("job")["status"] == "TERMINATED"


CHILDREN = """
for _ in range(20):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    tell("child", os.waitstatus_to_exitcode(status), run.preempted)
"""


def test_a_signal_to_a_forked_child_is_none_to_its_parent(node: Node) -> None:
    """R9: loader workers are ended by SIGTERM at every epoch, some of them before they really run."""
    script = start(node, CHILDREN)
    assert [script.expect("child") for _ in range(20)] == ["-15 False"] * 20
    assert script.wait() == 0
    assert node.ended("job")["status"] == "COMPLETED"
