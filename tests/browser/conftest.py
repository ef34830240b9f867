"""A real Chromium, and pages in it that are watched: no defect in a script, no request to anywhere else."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.chromium import NotToBeHadError, chromium

Open = Callable[..., Page]
# Set to write the pictures of docs/screenshots anew.
_WRITE = "ONECARD_WRITE_SCREENSHOTS"
_SCREENSHOTS = Path(__file__).parent.parent.parent / "docs" / "screenshots"


# Long enough for a busy machine; nothing asserts a time.
_PATIENCE_MS = 20_000
expect.set_options(timeout=_PATIENCE_MS)


# Of the module, not the session: as long as it is there, playwright's event loop is in the way of other tests' own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        found = chromium()
    except NotToBeHadError as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=found.path,
            # Its sandbox needs rights that a container seldom has; what it opens here is our own page.
            args=["--no-sandbox"],
            env=dict(os.environ) | found.environment,
        )
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens the page of a server in a window of its own; options are those of a playwright context."""
    contexts: list[Any] = []
    defects: list[str] = []
    elsewhere: list[str] = []

    def opened(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US"} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("pageerror", lambda error: defects.append(str(error)))
        # That the policy was broken comes as a message; a refused request too, which is no defect of the page.
        page.on("console", lambda said: "Content Security" in said.text and defects.append(said.text))
        page.on("request", lambda asked: asked.url.startswith((url, "data:", "blob:")) or elsewhere.append(asked.url))
        page.goto(f"{url}/")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not defects
    assert not elsewhere


def screenshot(page: Page, name: str) -> None:
    """Into docs/screenshots, when they are to be written."""
    if os.environ.get(_WRITE):
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=_SCREENSHOTS / f"{name}.png", full_page=True)
