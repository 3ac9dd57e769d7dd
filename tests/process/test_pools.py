"""Children that their parent ends say nothing against its Run; those that anybody else ends do (R9)."""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.harness import Node, lease

POOLS = """
import multiprocessing as mp

def setup():
    global run
    run = pluto.init()

def work(n):
    log(run, {"item": float(n)}, n)
    return run.role

def serve(ready):
    setup()
    os.setpgrp()
    log(run, {"served": 1.0}, 0)
    ready.set()
    while True: time.sleep(0.1)

def served(context, **more):
    ready = context.Event()
    child = context.Process(target=serve, args=(ready,), **more)
    child.start()
    ready.wait()
    return child

def main(context):
    global run
    run = pluto.init(run_id="main")
    log(run, {"loss": 1.0}, 0)
    with context.Pool(2, initializer=setup) as pool:
        told = pool.map(work, range(4), chunksize=1)
    with context.Pool(1, initializer=setup, maxtasksperchild=1) as pool:
        told += pool.map(work, range(4, 6), chunksize=1)
    tell_json("roles", told)
    for end in ("terminate", "kill"):
        child = served(context)
        getattr(child, end)()
        child.join()
        tell(end, child.exitcode)
    child = served(context)
    signal.pidfd_send_signal(os.pidfd_open(child.pid), signal.SIGTERM)
    child.join()
    tell("pidfd", child.exitcode)
    child = served(context)
    os.killpg(child.pid, signal.SIGKILL)
    child.join()
    tell("killpg", child.exitcode)
    served(context, daemon=True)

if __name__ == "__main__":
    main(mp.get_context(METHOD))
    END
"""


@pytest.mark.parametrize(
    ("method", "end"), [("fork", "run.finish()"), ("spawn", "pass"), ("forkserver", "run.finish()")]
)
def test_children_that_their_parent_ends_are_no_evidence(node: Node, method: str, end: str) -> None:
    """R9, R10: left pools, `terminate()`, `kill()`, `killpg()`, a daemonic child that is stopped at exit."""
    script = node.start(POOLS.replace("METHOD", repr(method)).replace("END", end))
    assert script.expect_json("roles") == ["worker"] * 6
    assert [script.expect(end) for end in ("terminate", "kill", "pidfd", "killpg")] == [
        "-15",
        "-9",
        "-15",
        "-9",
    ]
    assert script.wait() == 0
    found = node.ended("main")
    assert (found["status"], found["verdict"]["first_failure"]) == ("COMPLETED", None)
    labels = [each["label"] for each in found["leases"] if each["role"] == "worker"]
    assert len(labels) == len(set(labels)) >= 6  # a pool may give all work to one of its processes
    assert not node.lost("main")


def test_a_pool_that_is_left_completes_the_runs_of_its_workers(node: Node) -> None:
    """R9: without a Run above them they own theirs, and no work was interrupted."""
    script = node.start(
        POOLS.split("def main", 1)[0]
        + """
if __name__ == "__main__":
    with mp.Pool(1, initializer=setup) as pool: tell_json("roles", pool.map(work, range(4), chunksize=1))
"""
    )
    assert script.expect_json("roles") == ["owner"] * 4
    assert script.wait() == 0
    found = [node.ended(each["key"]) for each in node.documents()]
    assert [each["status"] for each in found] == ["COMPLETED"] * len(found)


def test_a_signal_that_does_not_interrupt_a_wait_ends_the_process_all_the_same(node: Node) -> None:
    """R9: it may come between the interpreter's look for signals and the lock of a pool's queue.

    A signal that another thread of the process gets leaves the main thread in the same state.
    """
    script = node.start(
        """
        import multiprocessing as mp
        run = pluto.init(run_id="waits")
        log(run, {"loss": 1.0}, 0)
        listener = next(each for each in threading.enumerate() if each.name == "pluto-dist-stops")
        never = mp.Semaphore(0)

        def send():
            hear()
            signal.pthread_kill(listener.ident, signal.SIGTERM)

        threading.Thread(target=send, daemon=True).start()
        tell("waits")
        never.acquire()
        """
    )
    script.expect("waits")
    script.say()
    assert script.wait() == -signal.SIGTERM
    assert node.ended("waits")["status"] == "TERMINATED"
    assert not node.lost("waits")


@pytest.mark.parametrize(
    ("raised", "status"), [("ValueError('mine')", "FAILED"), ("KeyboardInterrupt", "TERMINATED")]
)
def test_a_child_that_is_ended_while_its_error_is_printed_has_failed(
    node: Node, raised: str, status: str
) -> None:
    """R9: Ctrl-C reaches parent and children, and the parent ends them at once."""
    script = node.start(
        f"""
        import multiprocessing as mp

        class Printed:
            def write(self, text): os.kill(os.getpid(), signal.SIGTERM)
            def flush(self): pass

        def work():
            run = pluto.init(name="work")
            log(run, {{"loss": 1.0}}, 0)
            sys.stderr = Printed()
            raise {raised}

        if __name__ == "__main__":
            child = mp.Process(target=work)
            child.start(); child.join()
            tell("code", child.exitcode)
        """
    )
    assert script.expect("code") == "-15"
    assert script.wait() == 0
    found = node.ended("work")
    assert (found["status"], found["verdict"]["first_failure"]["kind"]) == (status, "exception")
    assert not node.lost("work")


@pytest.mark.parametrize("interrupted", ["setdefault", "append"])
def test_a_signal_in_the_middle_of_an_end_does_not_take_it_away(node: Node, interrupted: str) -> None:
    """R9: a pool tells its worker to leave, and then ends it; the first has begun, however little of it."""
    script = node.start(
        f"""
        import multiprocessing as mp

        def interrupt(frame, event, called):
            if event == "c_return" and called.__name__ == {interrupted!r} and "_leave" in (
                frame.f_code.co_name, frame.f_back.f_code.co_name, frame.f_back.f_back.f_code.co_name):
                sys.setprofile(None)
                os.kill(os.getpid(), signal.SIGTERM)

        def work():
            run = pluto.init(name="work")
            log(run, {{"loss": 1.0}}, 0)
            sys.setprofile(interrupt)
            run.finish()

        if __name__ == "__main__":
            child = mp.Process(target=work)
            child.start(); child.join()
            tell("code", child.exitcode)
        """
    )
    assert script.expect("code") == "-15"
    assert script.wait() == 0
    found = node.ended("work")
    assert (found["status"], lease(found)["end_reason"]) == ("COMPLETED", "finished")
    assert not node.lost("work")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, "TERMINATED"), (signal.SIGKILL, "FAILED")])
def test_a_worker_that_somebody_else_ends_is_evidence(
    node: Node, number: signal.Signals, status: str
) -> None:
    """R9: the kernel for want of memory, a person, a scheduler."""
    script = node.start(
        POOLS.split("def main", 1)[0]
        + """
if __name__ == "__main__":
    run = pluto.init(run_id="main")
    child = served(mp.get_context("fork"))
    tell("child", child.pid)
    hear()
    child.join()
"""
    )
    os.kill(int(script.expect("child")), number)
    script.say()
    assert script.wait() == 0
    assert node.ended("main")["status"] == status


def test_a_signal_while_a_run_is_being_ended_does_not_take_its_end_away(node: Node) -> None:
    """R1, R9: a pool's worker that leaves by itself is sent SIGTERM by its parent in the same moment."""
    script = node.start(
        """
        from pluto_dist.client.console.capture import CAPTURES
        stop = CAPTURES.stop
        def interrupted(*given, **more):
            signal.raise_signal(signal.SIGTERM)
            stop(*given, **more)
        run = pluto.init(run_id="main")
        log(run, {"loss": 1.0}, 0)
        CAPTURES.stop = interrupted
        run.finish()
        threading.Event().wait()
        """
    )
    assert script.wait() == -signal.SIGTERM
    assert node.ended("main")["status"] == "COMPLETED"
