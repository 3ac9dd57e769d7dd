"""The full screen of `top` at 80 × 24, driven by its keys."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from html import unescape
from typing import Any

import msgspec
import pytest

pytest.importorskip("textual", reason="the extra `tui` is not installed")

from textual.pilot import Pilot
from textual.widgets import Input, OptionList, RichLog
from textual.worker import WorkerFailed

from pluto_dist.backend.local.reading import SaidLine
from pluto_dist.cli.top import app as top_app
from pluto_dist.cli.top import widgets
from pluto_dist.cli.top.app import Top
from pluto_dist.cli.top.widgets import Chart, Table
from pluto_dist.errors import CoordinatorUnavailableError
from pluto_dist.read.board import RunSeen
from tests.adapters.top_world import NOW_MS, World, failed, healthy, large, rank, run, said
from tests.patience import wait_until

SIZE = (80, 24)
Story = Callable[["Screen"], Awaitable[None]]


class Screen:
    """What a person sees and does."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    async def press(self, *keys: str) -> None:
        """Keys, and what they set off."""
        for key in keys:
            await self.pilot.press(key)
            await self.settled()

    async def settled(self) -> None:
        """Threads are done, and what they brought is drawn."""
        for _ in range(3):  # a look may set off the reading of points
            await self.pilot.pause()
            await self.app.workers.wait_for_complete()
        await self.pilot.pause()

    def table(self, name: str) -> list[str]:
        """Lines of a table, the cells as they are."""
        found = self.app.screen.query_one(f"#{name}", Table)
        return ["".join(cell.plain for cell in found.get_row_at(at)) for at in range(found.row_count)]

    def who(self) -> list[str]:
        """First cells of the processes."""
        found = self.app.screen.query_one("#processes", Table)
        return [found.get_row_at(at)[0].plain.strip() for at in range(found.row_count)]

    def chosen(self, name: str) -> str:
        """The line under the cursor."""
        return self.table(name)[self.app.screen.query_one(f"#{name}", Table).cursor_row]

    def text(self) -> str:
        """All that is on the screen."""
        drawn = re.findall(r"<text[^>]*>([^<]*)</text>", self.app.export_screenshot())
        return "\n".join(unescape(each).replace("\xa0", " ") for each in drawn)

    async def log(self) -> list[str]:
        """Lines of a console or a text; it writes none before it knows its size."""
        widget = self.app.screen.query_one(RichLog)
        await asyncio.to_thread(wait_until, lambda: widget.lines, "the text is drawn")
        return [line.text.rstrip() for line in widget.lines]


def play(world: World, story: Story, size: tuple[int, int] = SIZE) -> None:
    """Runs the screen until the story has been told."""

    async def told() -> None:
        app = Top(world, None)
        async with app.run_test(size=size, notifications=True) as pilot:
            screen = Screen(app, pilot)
            await screen.settled()
            await story(screen)

    asyncio.run(told())


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_app, "now_ms", lambda: NOW_MS)


def test_all_is_there_at_80_by_24():
    async def story(screen: Screen) -> None:
        text = screen.text()
        for part in ("DIG-7", "FAILED", "rank3", "behind", "train/loss", "side_failed", "┤", "Band", "Keys"):
            assert part in text
        for name in ("runs", "processes", "chart", "events"):
            region = screen.app.screen.query_one(f"#{name}").region
            assert region.height >= 4
            assert region.right <= SIZE[0]
            assert region.bottom <= SIZE[1] - 1  # the keys
        assert max(len(line.rstrip()) for line in screen.table("processes")) <= SIZE[0]

    play(World(healthy(), failed(), large()), story)


def test_the_run_under_the_cursor_is_the_one_below():
    async def story(screen: Screen) -> None:
        assert screen.who() == ["rank3", "rank0", "ranks 1-2, 4-7", "eval"]
        await screen.press("shift+tab", "down")
        assert screen.who() == ["rank2", "rank0", "rank1", "rank3"]
        assert "no points" not in screen.text()
        await screen.press("down")
        assert screen.who()[:2] == ["rank250", "rank77"]

    world = World(healthy(), failed(), large())
    play(world, story)
    assert world.curves == [("DIG-7", "train/loss"), ("DIG-8", "loss"), ("DIG-9", "train/loss")]


def test_keys_sort_turn_round_group_and_show_all():
    async def story(screen: Screen) -> None:
        await screen.press("g")
        assert len(screen.who()) == 9
        await screen.press("s")
        assert screen.who()[:3] == ["rank0", "rank1", "rank2"]
        assert "WHO▾" in screen.text()
        await screen.press("r")
        assert screen.who()[-1] == "rank0"
        assert "WHO▴" in screen.text()
        await screen.press("a")
        assert "upload" in screen.who()

    play(World(healthy()), story)


def test_a_click_on_a_title_sorts_by_it():
    async def story(screen: Screen) -> None:
        head = screen.app.screen.query_one("#processes", Table)
        line = next(line for line in screen.text().splitlines() if "LAG" in line and "BACKLOG" not in line)
        assert line
        at = sum(column.get_render_width(head) for column in list(head.columns.values())[:4]) + 2
        await screen.pilot.click("#processes", offset=(at, 1))
        await screen.settled()
        assert "LAG▾" in screen.text()
        await screen.pilot.click("#processes", offset=(at, 1))
        await screen.settled()
        assert "LAG▴" in screen.text()

    play(World(healthy()), story)


def test_a_filter_is_for_the_table_with_the_focus_and_escape_takes_it_away():
    async def story(screen: Screen) -> None:
        await screen.press("slash", *"eval", "enter")
        assert screen.who() == ["eval"]
        assert "filter eval" in screen.text()
        await screen.press("escape")
        assert len(screen.who()) == 4
        await screen.press("shift+tab", "slash", *"fail", "enter")
        assert [line.split()[0] for line in screen.table("runs")] == ["DIG-8"]
        assert screen.who()[0] == "rank2"

    play(World(healthy(), failed()), story)


def test_the_cursor_stays_with_its_process_wherever_that_moves():
    world = World(healthy())

    async def story(screen: Screen) -> None:
        await screen.press("g", "s")
        assert screen.chosen("processes").startswith("rank3")
        ranks = [rank(n, 5000 + n) for n in range(8) if n != 1]
        world.runs = [run(7, "baseline", ranks)]
        await screen.press("space")
        assert screen.who()[2] == "rank3"
        assert screen.chosen("processes").startswith("rank3")
        world.runs = [run(7, "baseline", [rank(n, 6000 + n) for n in range(8) if n != 1])]
        await screen.press("space")
        assert "6003" in screen.chosen("processes")

    play(world, story)


def test_enter_opens_a_console_that_follows_until_the_person_goes_up():
    world = World(healthy())

    async def story(screen: Screen) -> None:
        await screen.press("enter")
        assert "console of rank3" in screen.text()
        assert "step 59 loss 0.3" in screen.text()
        world.lines.append(said(60))
        screen.app.screen.load()  # type: ignore[attr-defined]
        await screen.settled()
        assert "step 60 loss 0.3" in screen.text()
        assert sum("step 59" in line for line in await screen.log()) == 1
        await screen.press("home")
        world.lines.append(said(61))
        screen.app.screen.load()  # type: ignore[attr-defined]
        await screen.settled()
        assert "step 0 loss" in screen.text()
        assert "step 61 loss" in (await screen.log())[-1]
        await screen.press("slash", *"step 9")
        assert [line[9:] for line in await screen.log()] == ["step 9 loss 0.3"]
        await screen.press("escape", "escape")
        assert screen.who()[0] == "rank3"

    play(world, story)


def test_the_console_of_a_process_on_another_node_is_said_to_be_there():
    seen = healthy()
    there = msgspec.structs.replace(seen, document=msgspec.structs.replace(seen.document, leases=()))

    async def story(screen: Screen) -> None:
        await screen.press("c")
        assert "itsconsoleisonitsnode" in "".join(screen.text().split())
        assert screen.who()[0] == "rank3"

    play(World(there), story)


def test_a_console_that_is_closed_while_it_is_read_does_no_harm(monkeypatch: pytest.MonkeyPatch):
    world, reading, may_go = World(healthy()), threading.Event(), threading.Event()
    real = world.console

    def console(*asked: Any) -> list[SaidLine]:
        reading.set()
        wait_until(may_go.is_set, "the console is closed")
        return real(*asked)

    monkeypatch.setattr(world, "console", console)

    async def story(screen: Screen) -> None:
        await screen.pilot.press("enter")
        await asyncio.to_thread(wait_until, reading.is_set)
        await screen.pilot.press("escape")
        await screen.pilot.pause()
        may_go.set()
        await screen.settled()
        assert screen.who()[0] == "rank3"

    play(world, story)


def test_leaving_while_it_looks_does_no_harm(monkeypatch: pytest.MonkeyPatch):
    world, looking, may_go = World(healthy()), threading.Event(), threading.Event()
    real = world.look

    def look() -> list[RunSeen]:
        looking.set()
        wait_until(may_go.is_set, "the screen is left")
        return real()

    async def story(screen: Screen) -> None:
        monkeypatch.setattr(world, "look", look)
        await screen.pilot.press("space")
        await asyncio.to_thread(wait_until, looking.is_set)
        screen.app.exit()
        may_go.set()

    play(world, story)


def test_what_is_found_when_the_screens_are_closed_goes_nowhere(monkeypatch: pytest.MonkeyPatch):
    """A thread that has asked whether it is still wanted may hand over a moment after the screen was left."""

    class Wanted:
        is_cancelled = False

    left: list[Top] = []

    async def story(screen: Screen) -> None:
        left.append(screen.app)

    play(World(healthy()), story)
    taken: list[str] = []
    monkeypatch.setattr(widgets, "get_current_worker", Wanted)
    monkeypatch.setattr(left[0], "call_from_thread", lambda call: call())
    widgets.hand_over(left[0], taken.append, "late")
    assert taken == []


def test_a_fault_of_ours_ends_the_screen_instead_of_freezing_it(monkeypatch: pytest.MonkeyPatch):
    world = World(healthy())

    async def story(screen: Screen) -> None:
        monkeypatch.setattr(world, "look", lambda: 1 / 0)
        await screen.pilot.press("space")
        await screen.settled()

    with pytest.raises(WorkerFailed, match="division by zero"):
        play(world, story)


def test_why_tells_the_verdict_and_events_and_keys_have_their_screens():
    async def story(screen: Screen) -> None:
        await screen.press("w")
        assert await screen.log() == ["verdict: FAILED: rank2 failed first: killed by SIGKILL"]
        await screen.press("escape", "e")
        assert await screen.log() == ["no line yet"]
        await screen.press("escape", "question_mark")
        assert "console of the process" in (await screen.log())[2]
        assert max(map(len, await screen.log())) <= SIZE[0]
        await screen.press("q")
        assert screen.who()

    play(World(failed()), story)


def test_another_series_can_be_chosen_by_a_part_of_its_name():
    world = World(healthy())

    async def story(screen: Screen) -> None:
        await screen.press("m", *"accu")
        assert screen.app.screen.query_one(OptionList).option_count == 1
        await screen.press("enter")
        assert "eval/accuracy" in screen.text()
        await screen.press("m", "down", "down", "enter")
        assert world.curves[-1][1] == "train/loss"

    play(world, story)
    assert world.curves[1] == ("DIG-7", "eval/accuracy")


def test_all_ranks_are_drawn_as_a_band_until_one_is_wanted_again():
    async def story(screen: Screen) -> None:
        plain = screen.app.screen.query_one(Chart).render()
        await screen.press("b")
        assert "8 ranks" in screen.text()
        band = screen.app.screen.query_one(Chart).render()
        assert len(band.spans) > len(plain.spans)
        await screen.press("b")
        assert "420 points" in screen.text()

    play(World(healthy()), story)


def test_what_goes_wrong_is_said_and_the_last_sight_stays(monkeypatch: pytest.MonkeyPatch):
    world = World(healthy())

    async def story(screen: Screen) -> None:
        def fail() -> list[RunSeen]:
            raise CoordinatorUnavailableError("the coordinator did not answer [within 5 s]")

        monkeypatch.setattr(world, "look", fail)
        await screen.press("space")
        assert "did not answer [within 5 s]" in screen.text()
        assert screen.who()[0] == "rank3"

    play(world, story)


def test_a_run_that_ends_while_it_is_watched_changes_its_status():
    world = World(healthy())

    async def story(screen: Screen) -> None:
        world.runs = [msgspec.structs.replace(failed(), document=failed().document)]
        await screen.press("space")
        assert "FAILED" in screen.table("runs")[0]
        assert screen.who()[0] == "rank2"
        world.runs = []
        await screen.press("space")
        assert screen.who() == []
        assert "No Run goes on here" in screen.text()
        await screen.press("enter", "w", "e", "c", "m", "s", "g")  # nothing to look at is no error

    play(world, story)


def test_names_are_text_and_no_markup():
    seen = run(1, "[bold]wide[/] \x1b[31m", [rank(0, 1, label="[red]x")])

    async def story(screen: Screen) -> None:
        text = screen.text()
        assert "[bold]wide[/]" in text
        assert "[red]x" in text
        await screen.press("c")
        assert "[bold]wide[/]" in screen.text()

    play(World(seen), story)


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (200, 60)])
def test_three_hundred_ranks_at_any_size(size: tuple[int, int]):
    async def story(screen: Screen) -> None:
        assert screen.who()[0] == "rank250"
        await screen.press("g")
        assert len(screen.who()) == 300
        await screen.press("end")
        assert screen.chosen("processes").strip()

    play(World(large()), story, size)


def test_the_filter_can_be_typed_with_the_letters_that_are_keys():
    async def story(screen: Screen) -> None:
        await screen.press("slash", *"rgqs")
        assert screen.app.screen.query_one("#filter", Input).value == "rgqs"
        assert screen.who() == []

    play(World(healthy()), story)
