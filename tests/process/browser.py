"""A real browser for tests: Debian's Chromium without a screen, by its driver."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.patience import wait_until

QUIET = (
    *("--headless=new", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--window-size=1280,900", "--lang=en", "--force-prefers-reduced-motion"),
)


class Browser:
    """One window."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Goes to an address."""
        self.driver.get(address)

    def find(self, selector: str, text: str = "") -> WebElement:
        """The first element with this text in it, when it is there."""
        return wait_until(lambda: self._shown(selector, text), lambda: f"{selector} {text!r} in {self.text}")  # type: ignore[no-any-return]

    def click(self, selector: str, text: str = "") -> None:
        """Clicks it; one that is drawn anew in that moment is looked for again."""

        def clicked() -> bool:
            try:
                self.find(selector, text).click()
            except StaleElementReferenceException:
                return False
            return True

        wait_until(clicked, f"{selector} {text!r} is clicked")

    def all(self, selector: str) -> list[WebElement]:
        """What is there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def ask(self, script: str, *given: object) -> Any:
        """What an expression of the page's language gives."""
        return self.driver.execute_script(f"return ({script})", *given)

    @property
    def text(self) -> str:
        """Everything that can be read on the page."""
        return str(self.ask("document.body.innerText"))

    def complaints(self) -> list[str]:
        """What the browser's console has got since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def _shown(self, selector: str, text: str) -> WebElement | None:
        script = (
            "[...document.querySelectorAll(arguments[0])]"
            ".find((each) => each.checkVisibility() && each.textContent.includes(arguments[1])) ?? null"
        )
        found: WebElement | None = self.ask(script, selector, text)
        return found


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in a folder; skips the test where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium or chromedriver in the PATH: `apt-get install chromium chromium-driver`")
    options = ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (*QUIET, f"--user-data-dir={folder}", *(["--no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(argument)
    found = Chrome(options=options, service=Service(driver))
    try:
        yield Browser(found)
    finally:
        found.quit()
