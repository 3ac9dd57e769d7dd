"""`python -m tests.chaos --for SECONDS [--seed N]`: plays one schedule; 1 if something does not add up."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from tests.chaos.checks import Checks
from tests.chaos.driver import Play, played


def main() -> int:
    """Prints the seed first, so that it is known whatever happens."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--for", dest="seconds", type=float, default=60.0, help="how long faults go on")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule; by default a new one")
    parser.add_argument("--keep", type=Path, default=None, help="folder for all of a play with findings")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}, {options.seconds:g} s", flush=True)
    with played(seed, options.seconds) as play:
        checks = Checks(play)
        findings = checks.findings()
        print(f"did: {dict(sorted(play.done.items()))}")
        print(f"saw: {checks.counts()}")
        for finding in findings:
            print(f"FOUND {finding}")
        if findings and options.keep is not None:
            keep(play, findings, options.keep / str(seed))
    print("all adds up" if not findings else f"{len(findings)} findings; seed {seed}")
    return int(bool(findings))


def keep(play: Play, findings: list[str], folder: Path) -> None:
    """Everything that somebody needs to find the cause, before the node and its server are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "findings.txt").write_text("\n".join(findings) + "\n")
    (folder / "story.txt").write_text(play.served.report())
    (folder / "coordinator.log").write_text(play.served.log)
    (folder / "told.txt").write_text("".join(f"{at:.3f} {what}\n" for at, what in play.told))
    requests = play.served.server.requests()
    (folder / "requests.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in requests))
    for path in play.ledgers.glob("*.jsonl"):
        (folder / f"ledger-{path.name}").write_bytes(path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
