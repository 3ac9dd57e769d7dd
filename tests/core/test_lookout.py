"""What a node knows of a Run's folder: the list is the truth, the watch a hint."""

from __future__ import annotations

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.shared_folder import Lookout
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.effects import ListCluster, WatchCluster
from pluto_dist.core.values.engine import ClusterAddress, Listed
from pluto_dist.core.values.events import ClusterListed

ADDRESS = ClusterAddress(members=("http://memory",), prefix="p")


class Folder:
    """A lookout, and a store that answers lists at once and watches never."""

    def __init__(self) -> None:
        self.context = Context(Book(), "boot")
        self.lookout = Lookout(self.context, "run", ADDRESS, "f/")
        self.watched: list[str] = []

    def look(self, *names: str) -> list[str]:
        """What was listed."""
        self.lookout.look(*names, quiet_s=120)
        listed = []
        for effect in self.context.take_effects():
            match effect:
                case ListCluster(prefix=prefix):
                    listed.append(prefix)
                case WatchCluster(prefix=prefix):
                    self.watched.append(prefix)
        return listed

    def answer(self, prefix: str) -> None:
        self.lookout.listed(ClusterListed(run="run", prefix=prefix, result=Listed({}, 1), read_at=0.0))


def test_a_list_comes_first_and_a_watch_goes_on_from_it() -> None:
    folder = Folder()
    assert folder.look("run") == ["f/run"]
    assert folder.lookout.behind
    folder.answer("f/run")
    assert folder.look("run") == []
    assert folder.watched == ["f/run"]
    assert not folder.lookout.behind


def test_nobody_waits_for_a_part_that_is_not_looked_at_any_more() -> None:
    """Its watch goes on for two minutes, and nothing could be decided for so long."""
    folder = Folder()
    folder.look("run", "node/a")
    for part in ("f/run", "f/node/a"):
        folder.answer(part)
    folder.look("run", "node/a")
    folder.look("")
    folder.answer("f/")
    folder.lookout.again()
    assert folder.look("") == ["f/"]
    folder.answer("f/")
    assert not folder.lookout.behind
