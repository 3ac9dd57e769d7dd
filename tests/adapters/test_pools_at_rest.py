"""Is a pool's worker between two tasks, or in one? By the frames of its main thread (R9)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pluto_dist.client.tasks import between_tasks

WORKER = ("multiprocessing.pool", "worker")
CHILD = ("multiprocessing.process", "_bootstrap")
LEAVING = ("multiprocessing.util", "_exit_function")
OURS = ("pluto_dist.client.lease", "leave")
TASK = ("__main__", "trial")
LOGGING = ("logging", "handle")


def below(*stack: tuple[str, str]) -> bool:
    """The answer at the bottom of a stack of functions, given by module and name, outermost first."""
    call: Callable[[], bool] = between_tasks
    for module, name in reversed(stack):
        space = {"__name__": module, "call": call}
        exec(f"def {name}():\n    return call()", space)  # functions of these modules
        call = space[name]  # type: ignore[assignment]
    return call()


@pytest.mark.parametrize(
    ("stack", "at_rest"),
    [
        ([], False),
        ([TASK], False),
        ([WORKER], True),
        ([WORKER, ("multiprocessing.connection", "_send"), ("selectors", "select")], True),
        ([WORKER, ("joblib.pool", "put"), ("tempfile", "mkdtemp")], True),
        ([CHILD, WORKER, TASK], False),
        ([CHILD, TASK], False),
        ([CHILD, ("threading", "_shutdown")], True),  # it has left its loop
        ([WORKER, ("joblib.parallel", "__call__"), TASK, ("json", "dumps")], False),
        ([WORKER, TASK, OURS, LOGGING], False),
        ([CHILD, LEAVING, OURS, LOGGING], True),  # a Run that is left tells its end while the signal comes
        ([TASK, CHILD, LEAVING, OURS, ("json", "dumps")], True),  # a fork stands on its parent's stack
    ],
)
def test_what_a_pools_worker_does(stack: list[tuple[str, str]], at_rest: bool) -> None:
    """R9: what this package calls at the end of a worker is no task that a signal could interrupt."""
    assert below(*stack) is at_rest
