"""Whose Run is it? Children that `multiprocessing` starts in every way, with and without a Run above (R4)."""

from __future__ import annotations

import pytest

from tests.process.harness import Node, lease

METHODS = ["fork", "spawn", "forkserver"]
SWEEP = """
import multiprocessing as mp
from concurrent.futures import ProcessPoolExecutor

def trial(n):
    run = pluto.init(project="sweep" if n else "other", name=f"t{n}")
    log(run, {"loss": float(n)}, 0)
    if n == 5: raise SystemExit(run.finish(code=1))
    run.finish()
    return [run.role, run.run_id]

def plain(n):
    run = pluto.init()
    log(run, {"loss": float(n)}, 0)
    return [run.role, run.run_id]

def both(n):
    return [trial(n), plain(n)]

def alone():
    run = pluto.init(config={"lr": 1})
    log(run, {"loss": 1.0}, 0)
    raise ValueError("mine")

if __name__ == "__main__":
    mp.set_start_method(METHOD)
    with ProcessPoolExecutor(2) as pool:
        told = [each.result() for each in [pool.submit(trial, n) for n in range(5)]]
        each = pool.submit(trial, 5)
        each.exception()
    tell_json("sweep", told)
    main = pluto.init(project="sweep", name="main")
    log(main, {"loss": 0.5}, 0)
    with ProcessPoolExecutor(2) as pool:
        told = [each.result() for each in [pool.submit(both, n + 10) for n in range(2)]]
    tell_json("folds", [*told[0], *told[1]])
    joined = mp.Process(target=plain, args=(7,))
    joined.start(); joined.join()
    child = mp.Process(target=alone)
    child.start(); child.join()
    main.finish()
    tell("main", main.status)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_has_a_run_of_its_own_and_a_child_that_asks_for_nothing_joins(
    node: Node, method: str
) -> None:
    """R4: six trials of two processes are six Runs; folds below a Run are theirs; one child joins it."""
    script = node.start(SWEEP.replace("METHOD", repr(method)))
    sweep = script.expect_json("sweep")
    assert [role for role, _ in sweep] == ["owner"] * 5
    folds = script.expect_json("folds")
    assert [role for role, _ in folds] == ["owner"] * 4  # who has had a Run of its own gets one again
    assert script.expect("main") == "COMPLETED"
    assert script.wait() == 0
    assert len({run_id for _, run_id in sweep + folds}) == 9
    runs = {document["name"]: document for document in node.documents()}
    assert [node.ended(f"t{n}")["status"] for n in (0, 1, 5, 10)] == [
        "COMPLETED",
        "COMPLETED",
        "FAILED",
        "COMPLETED",
    ]
    assert [runs[name]["project"] for name in ("t0", "t1", "main")] == ["other", "sweep", "sweep"]
    main = node.ended("main")
    assert (main["status"], lease(main, role="worker")["label"]) == ("COMPLETED", "worker")
    failed = [node.ended(document["key"]) for document in node.documents() if document["config"] == {"lr": 1}]
    assert [each["verdict"]["first_failure"]["message"] for each in failed] == ["mine"]
    assert script.stderr.count("is used here too (worker)") == 1
    assert not any(node.lost(document["key"]) for document in node.documents())


def test_forks_of_a_script_join_or_open_what_they_ask_for(node: Node) -> None:
    """R4: `os.fork` is what `multiprocessing` does, too; a program that is started is another one."""
    other = (
        "from tests.process.stage import *; run = pluto.init(); log(run, {'x': 1.0}, 0); "
        "tell_json('program', [run.role, run.run_id]); run.finish()"
    )
    script = node.start(
        f"""
        import subprocess
        run = pluto.init(run_id="main", name="main")
        def child(deed):
            pid = os.fork()
            if pid == 0:
                deed()
                sys.exit()
            os.waitpid(pid, 0)
        def opens(**asked):
            own = pluto.init(**asked)
            log(own, {{"x": 1.0}}, 0)
            tell_json("fork", [own.role, own.name])
        child(opens)
        child(lambda: opens(name="mine"))
        child(lambda: child(opens))
        subprocess.run([sys.executable, "-c", {other!r}], check=True)
        """
    )
    assert [script.expect_json("fork") for _ in range(3)] == [
        ["worker", "main"],
        ["owner", "mine"],
        ["worker", "main"],
    ]
    role, run_id = script.expect_json("program")
    assert (role, run_id != "main") == ("owner", True)
    assert script.wait() == 0
    assert node.ended("main")["status"] == "COMPLETED"
    assert not any(node.lost(document["key"]) for document in node.documents())


RAISING = """
import multiprocessing as mp
import optuna
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from joblib import Parallel, delayed

optuna.logging.set_verbosity(optuna.logging.CRITICAL)

class Trainer:
    def __init__(self, name):
        self.run = pluto.init(name=name)

    def fit(self, broken):
        log(self.run, {"loss": 1.0}, 0)
        if broken: raise ValueError(f"{self.run.name} is broken")

def trial(name):
    Trainer(name).fit(name.endswith("bad"))

def joined(_):
    run = pluto.init()
    log(run, {"part": 1.0}, 0)
    raise ValueError("its parent knows")

def objective(of):
    if of.number == 2:
        with pluto.init(name="optuna-pruned"): raise optuna.TrialPruned
    if of.number == 3:
        Trainer("optuna-left-pruned")
        raise optuna.TrialPruned
    trial("optuna-bad" if of.number == 0 else "optuna-good")
    return 1.0

def every_way(method):
    context = mp.get_context(method)
    for way in "map", "apply", "imap":
        with context.Pool(1) as pool:
            yield f"pool-{way}", lambda name: pool.map_async(trial, [name]) if way == "map" else (
                pool.apply_async(trial, (name,)) if way == "apply" else pool.imap(trial, [name]))
    with ProcessPoolExecutor(1, context) as pool: yield "futures", lambda name: pool.submit(trial, name)
    with ThreadPoolExecutor(1) as pool: yield "threads", lambda name: pool.submit(trial, name)
    with ThreadPool(1) as pool: yield "threadpool", lambda name: pool.map_async(trial, [name])

def outcome(future):
    try:
        if hasattr(future, "__next__"): return next(future)
        return future.get() if hasattr(future, "get") else future.result()
    except ValueError as error:
        return str(error)

if __name__ == "__main__":
    for way, submit in every_way(METHOD):
        for end in "good", "bad", "next":
            tell(way, end, outcome(submit(f"{way}-{end}")))
    for backend in "loky", "threading":  # joblib's third one forks beside the threads of the two before
        for name in (f"joblib-{backend}-bad", f"joblib-{backend}-next"):
            try: Parallel(2, backend=backend)([delayed(trial)(name)])
            except ValueError: pass
    thread = threading.Thread(target=trial, args=("thread-bad",))
    thread.start(); thread.join()
    optuna.create_study().optimize(objective, n_trials=4, catch=ValueError)
    main = pluto.init(name="main")
    with ProcessPoolExecutor(1, mp.get_context(METHOD)) as pool:
        tell(type(pool.submit(joined, 0).exception()).__name__)
    main.finish()
    tell("all")
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_that_raises_in_a_pool_fails_its_own_run_alone(node: Node, method: str) -> None:
    """R9: nobody but the pool sees what a task raises; the next trial of the same process is another Run."""
    for module in ("optuna", "joblib"):
        pytest.importorskip(module, reason=f"{module} is not installed here: pip install {module}")
    script = node.start(RAISING.replace("METHOD", repr(method)))
    script.expect("all")
    assert script.wait() == 0
    found = [node.ended(document["key"]) for document in node.documents()]
    status = {each["name"]: each["status"] for each in found}
    assert {name for name, is_now in status.items() if is_now == "FAILED"} == {
        name for name in status if name.endswith("-bad")
    }
    assert [name for name, is_now in status.items() if is_now == "TERMINATED"] == [
        "optuna-pruned",
        "optuna-left-pruned",
    ]
    assert len(found) == len(status) == 6 * 3 + 2 * 2 + 1 + 4 + 1
    for each in found:
        first = each["verdict"]["first_failure"] or {}
        assert (first.get("type") == "ValueError") == (each["status"] == "FAILED")
        assert (first.get("type") == "TrialPruned") == (each["status"] == "TERMINATED")
        assert each["status"] != "FAILED" or first["message"] == f"{each['name']} is broken"
    assert not any(node.lost(document["key"]) for document in node.documents())
