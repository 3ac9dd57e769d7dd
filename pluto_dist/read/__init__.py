"""Reading Runs, in a notebook or a script; nothing of it is loaded by `import pluto_dist`.

    from pluto_dist import read

    for run in read.runs(status="FAILED", since="7d"):
        print(run.display_id, run.verdict.reason)

    run = read.run("MMP-42")
    run.series("loss").to_pandas()
    run.series("loss", every_rank=True, since_step=1000).to_polars()
    run.series("loss", every_rank=True).together()[0].columns()  # mean, min, max, std over ranks
    run.config["lr"], run.summary["loss"].last, run.console(rank=3, last=20)

Runs that are still written can be read as well: what their processes have logged is on disk at once. A look
also settles: for a Run whose processes were killed together with the coordinator, a coordinator is started,
which makes the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pluto_dist.errors import MachineError, RunNotFoundError, UsageError
from pluto_dist.read.listing import Listed, Wanted, chosen, listed, since_ms, statuses
from pluto_dist.read.lookup import Lookup
from pluto_dist.read.run import LoggedFile, Run
from pluto_dist.read.series import Curve, Series, Together
from pluto_dist.read.settle import Situation
from pluto_dist.read.settle import settle as settle_runs

__all__ = ["Curve", "LoggedFile", "Run", "Series", "Situation", "Together", "run", "runs"]


def runs(
    where: str | Path | None = None,
    *,
    project: str | None = None,
    status: str | Iterable[str] = (),
    tags: str | Iterable[str] = (),
    since: str | None = None,
    settle: bool = True,
) -> list[Run]:
    """Runs, oldest first.

    Args:
        where: a store (`.pluto`) or the folder that holds it, then only its Runs; or a node's home (as
            PLUTO_DIST_HOME); None for this node and the store that the settings name.
        project: only of this project.
        status: only with one of these statuses or standings, e.g. `FAILED` or `gone`.
        tags: only with all of these.
        since: only made since then: `7d`, `12h`, `2026-11-30`.
        settle: a Run whose processes are dead is judged first if no coordinator lives; this may take seconds.

    A Run that cannot be read (damaged, of a newer version, another user's) is left out with a line on stderr.

    Raises:
        UsageError: there is no such folder or status, or `since` cannot be read.
        SettingError: an environment variable has an unusable value.
    """
    lookup, only_store = _lookup(where)
    wanted = Wanted(
        project=project,
        status=statuses(_several(status)),
        tags=_several(tags),
        since_ms=since_ms(since) if since is not None else None,
    )
    if settle:
        settle_runs(lookup)
    found = [each for each in listed(lookup) if not only_store or each.known.store == lookup.store.root]
    return [made for each in chosen(found, wanted) if (made := _readable(lookup, each)) is not None]


def run(name: str | int, where: str | Path | None = None, *, settle: bool = True) -> Run:
    """One Run.

    Args:
        name: id (7), display id (`MMP-42`), the caller's own id, or key.
        where, settle: as for `runs`.

    Raises:
        UsageError: there is no such folder.
        RunNotFoundError: there is none; says where it was looked for.
        AmbiguousRunError: there are several; lists them.
        MachineError: its document cannot be read, because it is damaged or of a newer version.
    """
    lookup, _ = _lookup(where)
    if settle:
        settle_runs(lookup)
    return Run(lookup, lookup.find(str(name)))


def _readable(lookup: Lookup, each: Listed) -> Run | None:
    """A Run of a list; None, with a remark, for one that is damaged, of a newer version or just gone."""
    try:
        return Run(lookup, lookup.again(each.known.head.key, each.known.store))
    except (MachineError, RunNotFoundError, OSError) as error:
        lookup.note(f"pluto-dist: {error}")
        return None


def _lookup(where: str | Path | None) -> tuple[Lookup, bool]:
    if where is None:
        return Lookup(), False
    folder = Path(where).expanduser()
    if not folder.exists():
        raise UsageError(f"where={str(where)!r}: there is no such folder")
    if (folder / "run").is_dir() and (folder / "spool").is_dir():
        return Lookup(home=folder), False
    return Lookup(folder=folder), True


def _several(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
