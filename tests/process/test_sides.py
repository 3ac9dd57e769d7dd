"""A sidecar that runs wild costs itself, and not the training."""

from __future__ import annotations

from tests.process.harness import wait_until
from tests.process.served import Served


def test_a_side_that_fills_the_disk_loses_its_own_records_and_a_side_too_many_is_refused(
    served: Served,
) -> None:
    """G4, G1: each refusal names limit and setting; the training goes on, and a free place is given again."""
    served.set(PLUTO_DIST_SPOOL_QUOTA="2M", PLUTO_DIST_SEGMENT_SIZE="64K", PLUTO_DIST_SIDES_SHARE="20")
    training = served.start(
        """
        run = pluto.init(run_id="wild")
        tell("ready")
        hear()
        for step in range(100):
            log(run, {"loss": 1.0}, step)
        tell("logged")
        hear()
        run.finish()
    """,
        env={"PLUTO_DIST_SIDES_LIMIT": "1"},
    )
    training.expect("ready")
    wild = served.start("""
        run = pluto.attach("wild", label="wild")
        tell("attached")
        hear()
        for step in range(2000):
            run.log({"text": "x" * 1000}, step=step)
        tell("written")
        hear()
        run.close()
    """)
    wild.expect("attached")
    second = served.start("""
        try:
            pluto.attach("wild", label="second")
        except pluto.errors.ClaimError as error:
            tell("refused", error.message)
    """)
    assert "has 1 sides, and sides_limit allows 1" in second.expect("refused")
    served.cut_off()
    wild.say()
    wild.expect("written")
    wait_until(lambda: "sides_share allows all of them 419,430, 20 % of spool_quota" in wild.stderr)
    training.say()
    training.expect("logged")
    served.back()
    wild.say()
    assert wild.wait() == 0
    wait_until(lambda: _has_ended(served, "wild"), "its place is free")
    again = served.start('pluto.attach("wild", label="again").close(); tell("closed")')
    again.expect("closed")
    training.say()
    assert training.wait() == 0
    served.ended_remotely("wild")
    document = served.ended("wild")
    assert document["dropped"] > 1000
    assert served.missing("wild") == []


def _has_ended(served: Served, label: str) -> bool:
    return any(
        lease["label"] == label and lease["ended_at"] is not None
        for lease in served.document("wild")["leases"]
    )
