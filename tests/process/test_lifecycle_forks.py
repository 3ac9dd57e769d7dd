"""Forked and spawned children of a participant: they log, and never end what is their parent's (G1, G3).

Also the calls that end a Run, made twice, at once, and in the wrong process.
"""

from __future__ import annotations

import pytest

from tests.process.harness import Node, wait_until


def test_finish_from_eight_threads_is_one_finish(node: Node) -> None:
    """Both calls are idempotent and thread-safe; whoever comes first decides, and the end is told once."""
    script = node.start(
        """
        run = pluto.init(run_id="threads")
        log(run, {"loss": 1.0}, 0)
        barrier = threading.Barrier(8)
        def end(k):
            barrier.wait()
            run.finish() if k % 2 else run.finish(timeout_s=NEVER_S)
        threads = [threading.Thread(target=end, args=(k,)) for k in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        run.close(); run.finish(code=1)
        tell("status", run.status)
        """
    )
    assert script.expect("status") == "COMPLETED"
    assert script.wait() == 0
    assert script.stderr.count("COMPLETED, 1 point;") == 1
    assert "Exception" not in script.stderr
    assert node.ended("threads")["status"] == "COMPLETED"


def test_log_after_the_end_is_dropped_counted_and_said_once(node: Node) -> None:
    """After the end a record is no record: one warning, a count in the document, `strict` raises."""
    script = node.start(
        """
        run = pluto.init(run_id="late")
        log(run, {"loss": 1.0}, 0)
        run.finish()
        for step in range(5): run.log({"loss": 2.0}, step)
        run.add_tags("late"); run.update_config({"late": True})
        """
    )
    assert script.wait() == 0
    assert script.stderr.count("log() after the end") == 1
    assert script.stderr.count("5 records came after the end of Run late") == 1
    found = node.ended("late")
    assert (found["points"], found["status"]) == (1, "COMPLETED")
    assert (found["tags"], found["config"]) == ([], {})


def test_forked_children_log_and_end_nothing(node: Node) -> None:
    """Every way in which a forked child can leave; its records are in the Run, its end is not."""
    script = node.start(
        """
        run = pluto.init(run_id="forks")
        log(run, {"parent": 0.0}, 0)
        def deeds():
            yield lambda: os._exit(0)
            yield lambda: os._exit(7)
            yield lambda: sys.exit(3)
            yield lambda: (run.finish(code=1), sys.exit(0))
            yield lambda: (run.close(), run.close(), os._exit(0))
            yield lambda: (pluto.finish(), os._exit(0))
            yield lambda: 1 / 0
            yield lambda: os.kill(os.getpid(), signal.SIGTERM)
            yield lambda: os.kill(os.getpid(), signal.SIGKILL)
        for number, deed in enumerate(deeds()):
            pid = os.fork()
            if pid == 0:
                for step in range(20): log(run, {f"child{number}": step / 3}, step)
                pluto.log({"by_module": float(number)}, step=number)
                account(run.lease_id, {"by_module": float(number)}, number)
                deed()
                os._exit(99)
            tell("left", number, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        log(run, {"parent": 1.0}, 1)
        tell("status", run.status)
        """
    )
    codes = [int(script.expect("left").split()[1]) for _ in range(9)]
    assert codes == [0, 7, 3, 0, 0, 0, 1, -15, -9]
    assert script.expect("status") == "RUNNING"
    assert script.wait() == 0
    found = node.ended("forks")
    assert (found["status"], found["verdict"]["first_failure"]) == ("COMPLETED", None)
    assert len(found["leases"]) == 1
    assert not node.lost("forks")
    assert found["points"] == len(node.points("forks")) == 2 + 9 * 21


def test_properties_in_a_forked_child_never_hang(node: Node) -> None:
    """The child has no thread that could ask; it gets what was known, at once, or an error."""
    script = node.start(
        """
        run = pluto.init(run_id="props", tags=["a"], config={"lr": 1})
        run.tags, run.config
        pid = os.fork()
        if pid == 0:
            told = [run.run_id, run.status, run.tags, run.role]
            try: run.config
            except pluto.errors.WaitTimeoutError as error: told.append("no config")
            run.add_tags("not mine"); run.update_config({"not": "mine"})
            tell_json("child", told)
            os._exit(0)
        os.waitpid(pid, 0)
        """
    )
    assert script.expect_json("child") == ["props", "RUNNING", ["a"], "owner", "no config"]
    assert script.wait() == 0
    assert script.stderr.count("in a forked child only log() is recorded") == 1
    found = node.ended("props")
    assert (found["tags"], found["config"]) == (["a"], {"lr": 1})


def test_a_forked_child_may_have_a_run_of_its_own(node: Node) -> None:
    """Its own `init()` opens its own Run, which ends with it; the parent's goes on."""
    script = node.start(
        """
        run = pluto.init(run_id="parent")
        pid = os.fork()
        if pid == 0:
            own = pluto.init(run_id="child")
            log(own, {"own": 1.0}, 0)
            log(run, {"inherited": 1.0}, 0)
            sys.exit(3)
        os.waitpid(pid, 0)
        log(run, {"loss": 1.0}, 0)
        """
    )
    assert script.wait() == 0
    child, parent = node.ended("child"), node.ended("parent")
    assert (child["status"], child["verdict"]["first_failure"]["exit_code"]) == ("FAILED", 3)
    assert parent["status"] == "COMPLETED"
    assert not node.lost("child")
    assert not node.lost("parent")


def test_a_fork_pool_logs_through_the_inherited_handle(node: Node) -> None:
    """As a DataLoader does: daemonic workers log, are terminated at exit, and end nothing."""
    script = node.start(
        """
        import multiprocessing as mp
        run = pluto.init(run_id="pool")
        def work(n):
            log(run, {"item": float(n)}, n)
            return os.getpid()
        context = mp.get_context("fork")
        with context.Pool(2) as pool: pids = set(pool.map(work, range(40), chunksize=1))
        def serve(inbox):
            while True: work(inbox.get())
        inbox = context.Queue()
        loader = context.Process(target=serve, args=(inbox,), daemon=True)
        loader.start()
        for n in range(40, 80): inbox.put(n)
        while not inbox.empty(): time.sleep(0.01)
        log(run, {"loss": 1.0}, 0)
        """
    )
    assert script.wait() == 0
    found = node.ended("pool")
    assert (found["status"], found["verdict"]["first_failure"]) == ("COMPLETED", None)
    assert len(found["leases"]) == 1
    assert not node.lost("pool")


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_pool_processes_that_call_init_are_workers_of_their_parents_run(node: Node, method: str) -> None:
    """R4: a pool child without rank variables whose parent owns a Run is a worker of it."""
    body = f"""
        import multiprocessing as mp
        def work(n):
            run = pluto.init(run_id="pool")
            log(run, {{f"item{{n}}": 1.0}}, 0)
            run.close()
            return [run.role, run.run_id]
        if __name__ == "__main__":
            run = pluto.init(run_id="pool")
            with mp.get_context({method!r}).Pool(1) as pool: tell_json("pool", pool.map(work, range(2)))
            log(run, {{"loss": 1.0}}, 0)
    """
    script = node.start(body)
    assert script.expect_json("pool") == [["worker", "pool"], ["worker", "pool"]]
    assert script.wait() == 0
    found = node.ended("pool")
    assert (found["status"], len(found["leases"])) == ("COMPLETED", 3)
    assert not node.lost("pool")


def test_a_forked_child_that_outlives_its_parent_is_delivered(node: Node) -> None:
    """G3: what the child logs after its parent's end arrives too; the status is the parent's."""
    script = node.start(
        """
        run = pluto.init(run_id="orphan")
        log(run, {"loss": 1.0}, 0)
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent: time.sleep(0.005)
            for step in range(50): log(run, {"orphan": step / 3}, step)
            tell("logged")
            os._exit(0)
        run.finish()
        os._exit(0)
        """
    )
    script.expect("logged")
    assert node.ended("orphan")["status"] == "COMPLETED"
    wait_until(lambda: not node.lost("orphan"), "the child's points")


@pytest.mark.parametrize(
    ("deed", "status", "failure"),
    [
        ("pass", "COMPLETED", None),
        (
            "raise ValueError('loader')",
            "FAILED",
            {"role": "worker", "type": "ValueError", "message": "loader"},
        ),
        ("os._exit(1)", "FAILED", {"role": "worker", "kind": "exit", "exit_code": 1}),
    ],
    ids=["ends", "raises", "leaves"],
)
def test_a_spawned_worker_that_never_closes(
    node: Node, deed: str, status: str, failure: dict[str, object] | None
) -> None:
    """R9: what `multiprocessing` does with an exception is hooked; of other ends the kernel says how."""
    script = node.start(
        f"""
        import multiprocessing as mp
        def work():
            run = pluto.init(run_id="spawned")
            log(run, {{"item": 1.0}}, 0)
            {deed}
        if __name__ == "__main__":
            run = pluto.init(run_id="spawned")
            child = mp.get_context("spawn").Process(target=work)
            child.start(); child.join()
            tell("child", child.exitcode)
        """
    )
    assert script.expect("child") == ("0" if failure is None else "1")
    assert script.wait() == 0
    found = node.ended("spawned")
    first = found["verdict"]["first_failure"]
    assert found["status"] == status
    assert first is failure or {name: first[name] for name in failure or ()} == failure
    assert not node.lost("spawned")
