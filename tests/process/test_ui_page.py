"""The page in a real browser, on a job of two ranks: what a person sees while it trains, and of its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium")  # before what imports it

from selenium.webdriver import ActionChains, Keys

from pluto_dist.cli.main import INTERRUPTED
from tests.patience import wait_until
from tests.process.browser import Browser, browser
from tests.process.harness import Child, Node, Script
from tests.process.test_cli import RUN

EVIL = '<img src=x onerror="window.evil = 1">'
RANK = f"""
import pluto_dist as pluto
run = pluto.init(project="vision", run_id="mine", name={EVIL!r}, tags=["<b>bold</b>"], config={{"lr": 0.5}})
rank, step = int(os.environ["RANK"]), 0
while True:
    for _ in range(50):
        values = {{"train/loss": 1 / (step + 1) + rank, {EVIL!r}: 1.0, "nothing": float("nan")}}
        run.log(values, step=step)
        step += 1
    print(f"rank {{rank}} has logged up to {{step - 1}}", flush=True)
    run.flush(NEVER_S)
    print("ready", flush=True)
    if sys.stdin.readline().strip() == "fail":
        raise RuntimeError("the loss is " + {EVIL!r})
"""


OTHER = """
import pluto_dist as pluto
run = pluto.init(project="vision", run_id="other", config={"lr": 0.25, "seed": 1})
run.log({"train/loss": 2.0}, step=49)
run.log({"train/loss": 3.0}, step=60)
run.finish()
"""


class Story:
    """A job, the page's server and a browser that has it open."""

    def __init__(self, node: Node, window: Browser) -> None:
        self.window = window
        assert node.start(OTHER).wait() == 0
        launcher = node.launcher(2)
        self.ranks: list[Child] = [launcher.rank(rank, RANK) for rank in range(2)]
        for rank in self.ranks:
            rank.expect("ready")
        self.page = node.keep(Script("page", *node.spawn([*RUN, "ui"], "page")))
        self.address = wait_until(lambda: self.page.lines, "no address was printed")[0]

    def open(self, where: str = "") -> Browser:
        self.window.open(self.address.partition("?")[0] + where)
        return self.window

    def open_run(self, tab: str = "") -> Browser:
        found = self.open("#/")
        found.find("th.name a", EVIL)
        key = found.ask("document.querySelector('th.name a').hash.split('/')[2]")
        found.open(f"{found.driver.current_url.partition('#')[0]}#/run/{key}/{tab}")
        found.find("h1", EVIL)
        return found


@pytest.fixture(scope="module")
def story(shared_node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder: Path = tmp_path_factory.mktemp("profile")
    with browser(folder) as window:
        made = Story(shared_node, window)
        window.open(made.address)
        yield made


@pytest.fixture(autouse=True)
def no_complaints(story: Story) -> Iterator[None]:
    """Nothing in the browser's console, and nothing that was logged has become markup."""
    yield
    assert story.window.complaints() == []
    assert story.window.ask("window.evil ?? 0") == 0


def chart(page: Browser, title: str) -> str:
    """Selector of a chart that is drawn."""
    selector = f'article.chart[aria-label="{title}"]'
    page.find(f"{selector} canvas")
    return selector


def open_values(page: Browser, selector: str) -> None:
    """The table of a chart's values."""
    page.click(f"{selector} .values summary")
    page.find(f"{selector} .values tbody th")


def steps(page: Browser, selector: str) -> list[str]:
    """First column of the table of a chart's values."""
    found: list[str] = page.ask(
        "[...document.querySelectorAll(arguments[0])].map((each) => each.textContent)",
        f"{selector} .values tbody th",
    )
    return found


def test_the_printed_address_shows_the_list_and_names_are_text(story: Story):
    page = story.window
    page.find("td .status", "Running")
    assert "token" not in page.driver.current_url
    page.find("th.name a", EVIL)
    page.find(".tag", "<b>bold</b>")
    page.find("input[type=search]").send_keys("nothing like it")
    page.find("[role=status]", "0 of 2 Runs")
    assert page.all("th.name a") == []


def test_new_points_appear_by_themselves_in_chart_table_and_console(story: Story):
    page = story.open_run("charts")
    selector = chart(page, "train/loss")
    page.find(f"{selector} .legend", "2 ranks")
    open_values(page, selector)
    assert steps(page, selector)[-1] == "49"
    for rank in story.ranks:
        rank.say()
        rank.expect("ready")
    wait_until(lambda: steps(page, selector)[-1:] == ["99"], lambda: str(steps(page, selector)[-3:]))
    page.click("nav.tabs a", "Console")
    page.find(".lines .said", "rank 1 has logged up to 99")


def test_a_keyboard_keeps_its_place_while_what_is_shown_changes(story: Story):
    page = story.open_run("overview")
    page.find(".people button.link", "rank1")
    page.ask(
        "[...document.querySelectorAll('.people button.link')].find((e) => e.textContent === 'rank1').focus()"
    )
    for rank in story.ranks:
        rank.say()
        rank.expect("ready")
    page.find(".people td.num", "149")
    assert page.ask("document.activeElement.textContent") == "rank1"


def test_a_series_of_nan_alone_says_so(story: Story):
    page = story.open_run("charts")
    page.find('article.chart[aria-label="nothing"] .note', "none of them finite")


def test_a_chart_is_zoomed_by_mouse_and_by_keys_and_all_go_along(story: Story):
    page = story.open_run("charts")
    selector = chart(page, "train/loss")
    over = page.find(f"{selector} .u-over")
    wide = over.size["width"]
    drag = ActionChains(page.driver).move_to_element_with_offset(over, -wide // 4, 0).click_and_hold()
    drag.move_by_offset(wide // 4, 10).release().perform()
    page.find(".zoomed", "to")
    open_values(page, selector)
    wait_until(lambda: 0 < len(steps(page, selector)) < 50, "the table is of the part that is shown")
    plot = page.find(f"{selector} .plot")
    plot.send_keys("0")
    wait_until(lambda: "0" in steps(page, selector), "all steps are there again")
    plot.send_keys(Keys.HOME)
    page.find(f"{selector} p[role=status]", "step 0: 1.5")
    plot.send_keys("+")
    page.find(".zoomed", "to")


def test_ranks_apart_smoothed_and_over_time(story: Story):
    page = story.open_run("charts")
    selector = chart(page, "train/loss")
    for label in ("Lines", "Log", "Elapsed"):
        page.click(".choice label", label)
    page.find(f"{selector} .legend", "rank 1")
    page.find("input[aria-label=Smoothing]").send_keys(Keys.END)
    page.find("output", "0.99")
    open_values(page, selector)
    page.find(f"{selector} .values thead th", "Elapsed")
    page.find(f"{selector} .values thead th", "rank 1")


def test_the_console_is_searched(story: Story):
    page = story.open_run("console")
    page.find(".lines .said", "rank 0 has logged")
    page.find("input[type=search]").send_keys("RANK 1")
    page.find(".console [role=status]", "with that text")
    wait_until(lambda: len(page.all(".lines li")) == len(page.all(".lines mark")) > 0, "only what was found")
    assert {mark.text for mark in page.all(".lines mark")} == {"rank 1"}


def test_what_died_first_stands_at_the_top_while_one_looks(story: Story):
    """The job fails with the page open: status, reason, traceback, last lines, the mark on the timeline."""
    page = story.open_run("overview")
    page.find(".people", "rank1")
    assert page.all(".verdict") == []
    story.ranks[1].say("fail")
    story.ranks[1].wait()
    story.ranks[0].signal(signal.SIGTERM)
    page.find("h1 .status", "Failed")
    page.find(".verdict .why", "rank 1")
    page.find(".verdict pre", f"RuntimeError: the loss is {EVIL}")
    page.find(".verdict figure", "rank 1 has logged up to 99")
    page.find(".timeline circle.first")
    page.find(".people tr.bad", "failed first")


def test_runs_that_are_ticked_are_compared(story: Story):
    """Charts over each other, and of the configs what differs."""
    page = story.open("#/")
    for name in ("VIS-2", "VIS-1"):
        page.click(f'input[aria-label="Compare {name}"]')
    page.click("a.primary", "Compare 2")
    page.click(".choice label", "Band")
    selector = chart(page, "train/loss")
    page.find(f"{selector} .legend", "VIS-1 ")
    page.find(f"{selector} .legend", "VIS-2 ")
    page.click("nav.tabs a", "Config")
    page.find(".config tr", "lr0.50.25")
    page.click(".runs-compared a.drop")
    page.find("h1", "1 Run")


def test_smoothing_begins_at_the_first_value_and_keeps_gaps(story: Story):
    page = story.open("#/")
    script = (
        "const done = arguments[0]; import('/static/js/plot.js').then(({smoothed}) =>"
        "done(smoothed([4, undefined, 8, null, 8], 0.5).map((each) => each ?? String(each))))"
    )
    found = page.driver.execute_async_script(script)
    assert found == [4, "undefined", (4 + 2 * 8) / 3, "null", pytest.approx((4 + 2 * 8 + 4 * 8) / 7)]


def test_all_views_can_be_opened_by_their_address(story: Story):
    for tab, text in (
        ("config", "0.5"),
        ("files", "No file"),
        ("system", "system_metrics_s"),
        ("events", "ended"),
    ):
        story.open_run(tab).find(".body", text)
    key = story.window.driver.current_url.split("/run/")[1].split("/")[0]
    story.open(f"#/compare/config?run={key}&run={key}").find(".body", "They are the same")
    story.open("#/run/nothing").find("[role=alert]", "no Run 'nothing'")


def test_the_server_ends_when_it_is_interrupted_with_the_page_open(story: Story):
    story.open("#/").find("th.name a")
    story.page.signal(signal.SIGINT)
    assert story.page.wait() == INTERRUPTED
    assert "Traceback" not in story.page.stderr
    story.window.find("#connection", "No connection")
    story.window.complaints()  # the browser has its own words for it
