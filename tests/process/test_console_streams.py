"""The script's own streams may be anything, in every mode of the console: no call fails because of them."""

from __future__ import annotations

import pytest

from tests.process.harness import Node
from tests.process.test_console import messages

STREAMS = """
        class OnlyWrite:
            def write(self, text):
                os.write(1, text.encode())
        class Slotted(OnlyWrite):
            __slots__ = ()
        class Broken(OnlyWrite):
            closed = property(lambda self: 1 / 0)
            def flush(self): raise KeyError("flush")
            def isatty(self): raise KeyError("isatty")
            def fileno(self): raise KeyError("fileno")
        class Dead(OnlyWrite):
            def write(self, text): raise ValueError("I/O operation on closed file")
        def use(stream):
            sys.stdout = sys.stderr = stream
"""


@pytest.mark.parametrize("console", ["auto", "wrap", "fd", "off"])
def test_no_stream_of_the_script_fails_a_call(node: Node, console: str) -> None:
    script = node.start(
        STREAMS
        + """
        for kind in (OnlyWrite, Slotted, Broken, Dead, lambda: None, object):
            use(kind())
            run = pluto.init(name="any")
            log(run, {"loss": 1.0, "bad": None}, 0)
            run.remove_tags("never there")
            run.finish()
            run.log({"late": 1.0})
        use(sys.__stdout__)
        tell("end")
        """,
        env={"PLUTO_DIST_CONSOLE": console},
    )
    script.expect("end")
    assert script.wait() == 0


def test_what_is_written_to_such_a_stream_is_recorded(node: Node) -> None:
    """`wrap` sees it at the stream, `fd` where it goes."""
    body = (
        STREAMS
        + """
        use({kind}())
        run = pluto.init(run_id="{run}")
        print("hello from {kind}")
        run.finish()
        use(sys.__stdout__)
        """
    )
    runs = [(console, kind) for console in ("wrap", "fd") for kind in ("OnlyWrite", "Slotted")]
    scripts = [
        node.start(
            body.replace("{kind}", kind).replace("{run}", f"{console}-{kind}"),
            env={"PLUTO_DIST_CONSOLE": console},
        )
        for console, kind in runs
    ]
    for script in scripts:
        assert script.wait() == 0
    for console, kind in runs:
        node.ended(f"{console}-{kind}")
        assert f"hello from {kind}" in messages(node, f"{console}-{kind}")
