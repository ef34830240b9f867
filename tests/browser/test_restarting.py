"""The page beside a server that is started again, a key that has no questions left, and how soon it is there: the real
supervisor and guard, in front of an application without an engine (tests/stand_in)."""

import datetime
import json
import re
import statistics
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.test_starting import enter_key
from tests.browser.user import ask, complaints, until_ready
from tests.faults.table import DOCS, writing
from tests.unit.test_supervisor import Supervised, held_in_its_start, supervised_with_keys

FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    with supervised_with_keys(tmp_path_factory.mktemp("stand-in")) as running:
        yield running


def opened(stand_in: Supervised, open_page: Open, key: str) -> Page:
    page = open_page(f"http://127.0.0.1:{stand_in.port}")
    enter_key(page, key)
    until_ready(page)
    return page


def test_a_key_that_has_no_questions_left(stand_in: Supervised, open_page: Open) -> None:
    page = opened(stand_in, open_page, "one-wish")
    assert "red circle" in ask(page, "What is it?")
    refused = ask(page, "And now?")
    assert "No answer" in refused
    assert re.search(r"The server asks to wait \d+ s", refused)
    assert page.locator("#question").input_value() == "And now?"


def test_a_server_that_is_started_again_is_seen_to_go_and_to_come_back(stand_in: Supervised, open_page: Open) -> None:
    page = opened(stand_in, open_page, "open-sesame")
    started = held_in_its_start(stand_in)
    try:
        expect(page.locator("#state")).to_have_text("restarting")
        expect(page.locator("#waiting")).to_be_visible()
        assert complaints(page) == []
        refused = ask(page, "Who are you?")
        assert "No answer" in refused
        assert "The server asks to wait" in refused
    finally:
        started.resume()
    until_ready(page)
    expect(page.locator("#waiting")).to_be_hidden()
    page.get_by_role("button", name="Ask", exact=True).click()  # the question is still there
    expect(page.locator(".answer .text")).to_contain_text("red circle")


@pytest.mark.long
def test_how_soon_the_page_is_there(stand_in: Supervised, open_page: Open) -> None:
    """Into docs/playground.json, when findings are to be written."""
    paints = []
    for _ in range(9):
        page = open_page(f"http://127.0.0.1:{stand_in.port}")
        page.wait_for_function(f"{FIRST_PAINT}.length > 0")
        paints += page.evaluate(FIRST_PAINT)
        page.context.close()
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    found = {
        "date": today,
        "first_contentful_paint_ms": {"median": round(statistics.median(paints)), "most": round(max(paints))},
    }
    if writing():
        (DOCS / "playground.json").write_text(json.dumps(found, indent=1) + "\n")
