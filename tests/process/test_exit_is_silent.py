"""At the interpreter's end nothing is printed, although modules are emptied before their last objects go."""

from __future__ import annotations

import pytest

from tests.process.harness import Node


def test_runs_that_were_opened_in_threads_beside_optuna_end_silently(node: Node) -> None:
    """Import order and threads decide what is torn down first; up to 20 lines came after the script."""
    pytest.importorskip("optuna", reason="optuna is not installed here: pip install optuna")
    script = node.start("""
        import optuna
        def trial(number):
            run = pluto.init(name=f"t{number}", settings={"quiet": True})
            log(run, {"loss": 1.0, "phase": "a"}, 0)
            if number % 2: run.finish()
        threads = [threading.Thread(target=trial, args=(number,)) for number in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """)
    assert script.wait() == 0
    assert script.stderr == ""


def test_a_run_that_is_kept_by_what_goes_last_ends_silently(node: Node) -> None:
    """pytest keeps the frames of a failed test, and with them its Run."""
    script = node.start("""
        import builtins
        def failed():
            run = pluto.init(settings={"quiet": True})
            log(run, {"loss": 1.0, "phase": "a"}, 0)
            raise AssertionError("a test that holds its Run")
        try: failed()
        except AssertionError as error: builtins.last_failure = error
    """)
    assert script.wait() == 0
    assert script.stderr == ""
