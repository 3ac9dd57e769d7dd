"""The environment fails (R13): one loud warning and `disabled`, or a typed error where that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.process.harness import Node

TRAINER = """
    try:
        run = pluto.init(run_id="poor", config={"lr": 0.1}, tags="y")
    except pluto.errors.MachineError as error:
        tell("error", type(error).__name__, error)
        sys.exit(0)
    for step in range(10):
        run.log({"loss": 1.0, "bad": None}, step)
        pluto.log({"loss": 2.0})
    run.add_tags("x")
    run.update_config({"a": 1})
    run.flush()
    tell("trained", type(run).__name__, run.status, run.run_id)
    tell_json("kept", [run.config, run.tags])
    run.finish()
    run.close()
"""


def _file_instead_of_home(node: Node) -> dict[str, str]:
    node.home.write_text("")
    return {}


def _too_long(node: Node) -> dict[str, str]:
    return {"PLUTO_DIST_HOME": str(node.base / ("x" * 100))}


def _read_only(node: Node) -> dict[str, str]:
    if not node.mount("ro"):
        pytest.skip("mounting a tmpfs takes root")
    return {}


def _nowhere(node: Node) -> dict[str, str]:
    return {"PLUTO_DIST_HOME": "/proc/self/nowhere"}


CASES: list[tuple[Callable[[Node], dict[str, str]], str]] = [
    (_file_instead_of_home, "PlacesError"),
    (_too_long, "SocketPathError"),
    (_read_only, "PlacesError"),
    (_nowhere, "PlacesError"),
]


@pytest.mark.parametrize(("spoil", "error"), CASES)
def test_a_home_that_cannot_be_used_warns_once_and_disables(
    node: Node, spoil: Callable[[Node], dict[str, str]], error: str
) -> None:
    """R13: training goes on, every call is a no-op, the warning has the reason and the way out."""
    script = node.start(TRAINER, env=spoil(node))
    assert script.expect("trained") == "DisabledRun RUNNING poor"
    assert script.expect_json("kept") == [{"lr": 0.1, "a": 1}, ["y", "x"]]
    assert script.wait() == 0
    assert script.stderr.count("Nothing will be logged") == 1
    assert script.stderr.startswith("pluto_dist: ")
    assert "PLUTO_DIST_REQUIRED=1" in script.stderr
    assert not node.coordinators()


@pytest.mark.parametrize(("spoil", "error"), CASES)
def test_required_makes_it_a_typed_error(
    node: Node, spoil: Callable[[Node], dict[str, str]], error: str
) -> None:
    """R13: PLUTO_DIST_REQUIRED=1; the text names the path."""
    script = node.start(TRAINER, env={"PLUTO_DIST_REQUIRED": "1"} | spoil(node))
    kind, _, text = script.expect("error").partition(" ")
    assert kind == error
    assert "PLUTO_DIST_HOME" in text
    assert script.wait() == 0


def test_a_default_place_that_is_taken_gives_way_to_the_next(node: Node) -> None:
    """R13: try the next place; the spool of one user is never in a folder of another."""
    first, second = node.base / "first", node.base / "second"
    for parent in (first, second):
        parent.mkdir(mode=0o700)
    (first / f"pluto-dist-{os.geteuid()}").write_text("somebody's file")
    script = node.start(
        f"""
        del os.environ["PLUTO_DIST_HOME"]
        from pluto_dist.host import places
        places.find_places.__kwdefaults__["parents"] = ({str(first)!r}, {str(second)!r})
        run = pluto.init(run_id="second", quiet=True)
        log(run, {{"loss": 1.0}}, 0)
        tell("where", places.find_places().base)
        run.finish()
        """,
        env={"PLUTO_DIST_IDLE_EXIT_S": "0.1"},
    )
    assert script.expect("where") == str(second / f"pluto-dist-{os.geteuid()}")
    assert script.wait() == 0
    assert node.ended("second")["points"] == 1


def test_disabled_costs_nothing_and_starts_nothing(node: Node) -> None:
    """R13: no thread, no file, no process; a log() is a call and nothing else."""
    script = node.start(
        """
        run = pluto.init(run_id="off", config={"a": 1}, tags="t")
        class Plain:
            def log(self, data, step=None, timestamp=None): return None
        def cost(of):
            began = time.process_time()
            for step in range(20_000):
                of.log({"loss": 1.0}, step)
            return time.process_time() - began
        ours, plain = (min(cost(of) for _ in range(5)) for of in (run, Plain()))
        tell_json("cost", [ours / plain, threading.active_count(), run.config, run.tags, run.run_id])
        with run:
            pluto.log({"loss": 1.0})
        pluto.finish()
        """,
        env={"PLUTO_DIST_MODE": "disabled"},
    )
    calls, threads, *shown = script.expect_json("cost")
    assert script.wait() == 0
    assert calls < 10
    assert threads == 1
    assert shown == [{"a": 1}, ["t"], "off"]
    assert script.stderr == ""
    assert not node.home.exists()
    assert not node.store.exists()


def test_the_store_cannot_be_written_for_a_while(node: Node) -> None:
    """R13, G5: init waits bounded, training goes on, everything arrives when the store takes it."""
    node.store.write_text("a file where the store should be")
    node.set(PLUTO_DIST_OPEN_WAIT_S="2")
    script = node.start("""
        run = pluto.init(run_id="later", quiet=True)
        for step in range(100):
            log(run, {"loss": float(step)}, step)
        tell("logged")
        hear()
        run.finish()
    """)
    script.expect("logged")
    node.store.unlink()
    script.say()
    assert script.wait() == 0
    found = node.ended("later")
    assert (found["status"], found["points"]) == ("COMPLETED", 100)
    assert not node.lost("later")


@pytest.mark.parametrize("folder", ["/proc/nope", "/dev/null"])
def test_a_store_that_takes_nothing_is_told_at_the_start_and_at_the_end(node: Node, folder: str) -> None:
    """R13, G5: one warning at each end with the cause; what was logged is said to be undelivered."""
    script = node.start(
        f"""
        run = pluto.init(run_id="homeless", dir={folder!r})
        run.log({{"loss": 1.0}})
        run.log({{"loss": 2.0}})
        tell("logged")
        hear()
        run.finish(timeout_s=5.0)
        tell("finished")
        """,
        env={"PLUTO_DIST_OPEN_WAIT_S": "2", "PLUTO_DIST_CONSOLE": "off"},
    )
    script.expect("logged")
    (warning,) = script.stderr.splitlines()
    assert warning.startswith("pluto_dist: Run homeless has no place in the store yet: ")
    cause = warning.partition("yet: ")[2].partition(". Everything")[0]
    assert f"{folder}/.pluto" in cause
    assert "irectory" in cause
    assert str(node.home) in warning
    script.say()
    script.expect("finished")
    undelivered, last = script.stderr.splitlines()[1:]
    assert f"within 5 s ({cause})" in undelivered
    assert "COMPLETED, 0 points, 2 records not delivered yet; look: pluto-dist show" in last
    assert script.wait() == 0


def test_an_init_without_descriptors_is_no_error(node: Node) -> None:
    """R13: trials that leak descriptors up to the limit go on, however few are left."""
    script = node.start("""
        import resource
        pluto.init(name="first").finish()
        for left in range(1, 30):
            free = os.open("/dev/null", os.O_RDONLY)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, 256))
            run = pluto.init(name=f"trial{left}")
            run.log({"loss": 1.0}, 0)
            run.finish(timeout_s=0.1)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        tell("finished")
    """)
    script.expect("finished")
    assert script.wait() == 0
    assert "Too many open files" in script.stderr
    assert node.ended("trial29")["status"] == "COMPLETED"


def test_an_init_without_threads_is_no_error(node: Node) -> None:
    """R13, G12: what was logged is on disk, and the next coordinator takes it up."""
    script = node.start("""
        def refused(thread): raise RuntimeError("can't start new thread")
        threading.Thread.start = refused
        run = pluto.init(run_id="alone")
        run.log({"loss": 1.0}, 0)
        run.finish()
        tell("finished")
    """)
    script.expect("finished")
    assert script.wait() == 0
    assert "can't start new thread" in script.stderr
    node.cli("coordinator", "start")
    assert node.ended("alone")["status"] == "COMPLETED"
    assert [point.value for point in node.points("alone")] == [1.0]


def test_a_descriptor_shortage_in_the_trainer_raises_nothing(node: Node) -> None:
    """R13: a trainer that leaks descriptors up to its limit; log() drops or goes on, nothing hangs."""
    script = node.start(
        """
        import resource
        run = pluto.init(run_id="leaky", quiet=True)
        run.log({"loss": 0.0}, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for step in range(1, 2000):
            run.log({"loss": float(step)}, step)
        tell("logged")
        time.sleep(0.3)
        for descriptor in taken:
            os.close(descriptor)
        run.finish()
        tell("finished")
    """,
        env={"PLUTO_DIST_HEARTBEAT_S": "0.1"},
    )
    script.expect("logged")
    script.expect("finished")
    assert script.wait() == 0
    found = node.ended("leaky")
    assert found["status"] == "COMPLETED"
    assert found["points"] + found["dropped"] == 2000
