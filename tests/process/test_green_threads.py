"""gevent and eventlet with everything patched: a Run works, and other greenlets run while it waits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.process.harness import Node, Script
from tests.process.test_console import messages

PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all(); import gevent; spawn = gevent.spawn",
    "eventlet": "import warnings; warnings.simplefilter('ignore')\n"
    "import eventlet; eventlet.monkey_patch(); spawn = eventlet.spawn",
}


def needs(library: str) -> None:
    """Looked up, not imported: with eventlet in a process, each later fork warns there."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed here: pip install {library}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("console", ["auto", "fd"])
@pytest.mark.parametrize("library", PATCH)
def test_a_run_works_with_green_threads(node: Node, library: str, console: str) -> None:
    """`init()` never returned: the link's thread held the only thread of the system."""
    needs(library)
    body = """
        ticks = []
        def tick():
            while True:
                ticks.append(1)
                time.sleep(0.01)
        spawn(tick)
        run = pluto.init(run_id="green")
        tell("up", len(ticks))
        for step in range(20): log(run, {"loss": 1.0}, step)
        def write(name):
            for step in range(5):
                log(run, {name: 1.0}, step)
                print(name, step)
                time.sleep(0.001)
        writers = [threading.Thread(target=write, args=(f"writer{n}",)) for n in range(4)]
        for writer in writers: writer.start()
        for writer in writers: writer.join()
        with pluto.init(run_id="inner") as inner: log(inner, {"x": 1.0}, 0)
        print("outer again")
        run.add_tags("a")
        tell("tags", *run.tags)
        run.finish()
        tell("end", run.status)
    """
    command = node.command(body, library)
    path = Path(command[-1])
    path.write_text(f"{PATCH[library]}\n{path.read_text()}")  # before everything else
    env = {"PLUTO_DIST_CONSOLE": console}
    started = node.keep(Script(library, *node.spawn(command, library, env=env)))
    assert int(started.expect("up")) > 0, "others ran while init() waited"
    assert started.expect("tags") == "a"
    assert started.expect("end") == "COMPLETED"
    assert started.wait() == 0
    assert len(node.points("green")) == 40
    assert not node.lost("green")
    assert "Traceback" not in started.stderr
    lines = messages(node, "green")
    assert "outer again" in lines
    assert sum(line.startswith("writer") for line in lines) == 20


def test_threads_without_what_waits_are_told_at_once(node: Node) -> None:
    """R13: a clear line, and the training goes on."""
    needs("gevent")
    script = node.start("""
        from gevent import monkey; monkey.patch_thread()
        run = pluto.init()
        run.log({"loss": 1.0})
        tell("up", run.role, run.label)
    """)
    assert script.expect("up") == "owner disabled"
    assert script.wait() == 0
    assert "monkey.patch_all(thread=False)" in script.stderr


def test_a_run_works_with_real_threads_beside_greenlets(node: Node) -> None:
    """R13: what the line above advises; a coordinator may be started in any thread."""
    needs("gevent")
    script = node.start("""
        from gevent import monkey; monkey.patch_all(thread=False)
        run = pluto.init(run_id="real")
        log(run, {"loss": 1.0}, 0)
        run.finish()
    """)
    assert script.wait() == 0
    assert node.ended("real")["status"] == "COMPLETED"
    assert "Traceback" not in script.stderr
