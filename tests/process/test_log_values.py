"""What `log()` takes, leaves out and refuses, from everywhere and fast, seen from the store (G3, G4)."""

from __future__ import annotations

import json

from tests.process.harness import Node, lease, wait_until


def test_values_arrive_as_they_were(node: Node) -> None:
    """Numbers, numpy scalars, bools, texts and nested dicts; NaN and infinities as such."""
    script = node.start(
        """
        import numpy as np
        run = pluto.init(run_id="values")
        run.log({
            "int": 3, "float": 0.1, "true": True, "big": 2**63,
            "np32": np.float32(0.5), "np64": np.float64(1e-300), "npint": np.int8(-3),
            "npbool": np.bool_(False), "zero_d": np.array(2.5),
            "text": "hello\\nworld \\u00e9", "nested": {"a": {"b": 1.5}, "c": "x"},
            "nan": float("nan"), "inf": float("inf"), "ninf": np.float64("-inf"), "tiny": 5e-324,
        }, step=np.int64(7))
        """
    )
    assert script.wait() == 0
    assert node.ended("values")["rejected"] == 0
    points = node.points("values")
    assert {point.step for point in points} == {7}
    found = {point.name: point.value for point in points}
    assert {name: repr(value) for name, value in found.items()} == {
        "int": "3",
        "float": "0.1",
        "true": "1",
        "big": repr(2**63),
        "np32": "0.5",
        "np64": "1e-300",
        "npint": "-3",
        "npbool": "0",
        "zero_d": "2.5",
        "text": repr("hello\nworld é"),
        "nested/a/b": "1.5",
        "nested/c": "'x'",
        "nan": "nan",
        "inf": "inf",
        "ninf": "-inf",
        "tiny": "5e-324",
    }
    exported = [json.loads(line) for line in node.cli("export", "values", "--format", "jsonl").splitlines()]
    texts = {
        line["name"]: line["value"] for line in exported if line["name"] in ("nan", "inf", "ninf", "int")
    }
    assert texts == {"nan": "NaN", "inf": "Infinity", "ninf": "-Infinity", "int": 3}


def test_a_value_that_cannot_be_logged_is_left_out_and_training_goes_on(node: Node) -> None:
    """One warning for each key and type, with advice; counted; its neighbours are logged."""
    script = node.start(
        """
        run = pluto.init(run_id="rejected")
        for step in range(50):
            run.log({"loss": step / 7, "grads": [1, 2], "none": None, "model": object()}, step)
            run.log({"weights": pluto.Histogram([float("nan")])}, step)
            account(run.lease_id, {"loss": step / 7}, step)
        """
    )
    assert script.wait() == 0
    for key in ("'grads' (list)", "'none' (NoneType)", "'model' (object)", "'weights' (Histogram)"):
        assert script.stderr.count(key) == 1, script.stderr
    found = node.ended("rejected")
    assert (found["rejected"], found["points"], lease(found)["rejected"]) == (200, 50, 200)
    assert found["first_reject"].startswith("owner, log(): 'grads' (list): ")
    assert "200 values rejected" in script.stderr.splitlines()[-1]
    assert not node.lost("rejected")


def test_faults_of_the_call_raise_at_once_and_write_nothing(node: Node) -> None:
    """A programming error is the caller's; with `strict` a value that cannot be logged is one too."""
    script = node.start(
        """
        def refused(call):
            try: call()
            except pluto.errors.InvalidRecordError as error: tell("refused", error)
            else: tell("taken")
        try: pluto.log({"loss": 1.0})
        except pluto.errors.RunNotFoundError as error: tell("early", error)
        run = pluto.init(run_id="strict", strict=True)
        for data in (5, [("a", 1)], "text", {1: 2.0}, {"": 1.0}, {"  ": 1.0}, {"a": {"": 1}}):
            refused(lambda: run.log(data))
        for value in ([1, 2], None):
            refused(lambda: run.log({"good": 1.0, "bad": value}))
        for step in (-1, 1.5, "3", True, None.__class__, 2**64):
            refused(lambda: run.log({"loss": 1.0}, step))
        refused(lambda: run.log({"loss": 1.0}, 1, timestamp=time.time() * 1000))
        log(run, {"loss": 1.0})
        tell("end")
        """
    )
    assert "init()" in script.expect("early")
    for _ in range(16):
        assert script.expect("refused")
    script.expect("end")
    assert script.wait() == 0
    assert node.ended("strict")["points"] == 1
    assert not node.lost("strict")


def test_log_from_threads_and_from_a_signal_handler(node: Node) -> None:
    """Callable from anywhere: eight threads, and a handler that interrupts a `log()` in its middle."""
    script = node.start(
        """
        run = pluto.init(run_id="anywhere")
        import itertools
        ticks = itertools.count()  # a handler may interrupt itself
        def tick(*_):
            n = next(ticks); run.log({"tick": float(n)}, n)
        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
        def work(k):
            for n in range(500): run.log({f"thread{k}": float(n), "text": f"{k}-{n}"}, n)
        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for thread in threads: thread.start()
        n = 0
        while any(thread.is_alive() for thread in threads) or n < 2000:
            run.log({"main": float(n)}, n); n += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell_json("logged", [next(ticks), n])
        """
    )
    ticks, main = script.expect_json("logged")
    assert script.wait() == 0
    assert ticks > 5
    found = node.ended("anywhere")
    counts = {name: point["count"] for name, point in found["summary"].items()}
    expected = {f"thread{k}": 500 for k in range(8)} | {"text": 4000, "tick": ticks, "main": main}
    assert counts == expected
    by_name: dict[str, list[object]] = {}
    for point in node.points("anywhere"):
        by_name.setdefault(point.name, []).append(point.value)
    assert {name: len(values) for name, values in by_name.items()} == expected
    for name in ("thread0", "main", "tick"):
        assert sorted(by_name[name]) == [float(n) for n in range(expected[name])]
    assert (found["dropped"], found["rejected"]) == (0, 0)


def test_a_thousand_records_of_ten_metrics_a_second(node: Node) -> None:
    """A supported use: nothing is dropped, nothing waits, and what left the process is seen while it runs."""
    script = node.start(
        """
        run = pluto.init(run_id="fast")
        names = [f"metric{k}" for k in range(10)]
        for n in range(2000):
            time.sleep(0.0009)
            run.log({name: n / 3 for name in names}, n)
        hear()
        """
    )
    wait_until(lambda: node.documents() and node.documents()[0]["points"] > 1000, "points while it runs")
    script.say()
    assert script.wait() == 0
    found = node.ended("fast")
    assert (found["points"], found["dropped"], found["rejected"]) == (20_000, 0, 0)
    points = node.points("fast")
    assert len(points) == 20_000
    assert {point.step for point in points} == set(range(2000))


def test_flush_waits_until_everything_is_delivered(node: Node) -> None:
    """What was logged before `flush()` is in the store when it returns."""
    script = node.start(
        """
        run = pluto.init(run_id="flush")
        for n in range(1000): log(run, {"loss": float(n)}, n)
        run.flush(timeout_s=NEVER_S)
        tell("flushed"); hear()
        """
    )
    script.expect("flushed")
    assert not node.lost("flush")
    assert len(node.points("flush")) == 1000
    script.say()
    script.wait()


def test_the_largest_step_ends_no_coordinator(node: Node) -> None:
    """G12: a step at the end of what fits, and one beyond it; the coordinator stays the same process."""
    script = node.start("""
        run = pluto.init(run_id="far", quiet=True)
        run.log({"loss": 1.0}, 2**63 - 2)
        for step in (2**63 - 1, 2**64 - 1, 10**40):
            try:
                run.log({"loss": 2.0}, step)
            except pluto.errors.InvalidRecordError as error:
                tell("refused", error)
        run.finish()
    """)
    for _ in range(3):
        assert "steps go from 0 to" in script.expect("refused")
    assert script.wait() == 0
    assert node.ended("far")["points"] == 1
    assert len(node.said("started")) == 1


def test_an_exception_whose_text_cannot_be_written_is_still_the_failure(node: Node) -> None:
    """G7, R9: half a character in a message, or megabytes of it, once cost the whole evidence."""
    for name, message in (("half", "'caf\\udce9'"), ("long", "'x' * 20_000_000")):
        script = node.start(f"""
            run = pluto.init(run_id={name!r}, quiet=True)
            raise ValueError({message})
        """)
        assert script.wait() == 1
        document = node.ended(name)
        assert document["status"] == "FAILED"
        failure = document["verdict"]["first_failure"]
        assert (failure["kind"], failure["type"]) == ("exception", "ValueError")
