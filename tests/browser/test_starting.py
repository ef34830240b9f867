"""The page before there is a model: what is shown while the server starts, and the key that is asked for."""

import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, screenshot
from tests.browser.user import ask, complaints
from tests.conftest import Server, start_server

KEY = "open-sesame"


@pytest.fixture
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, two questions a day, as soon as somebody answers on its port."""
    folder = tmp_path_factory.mktemp("starting")
    keys = folder / "keys"
    keys.write_text(f"me:{KEY} requests/day=2\n")
    begun = start_server(folder, environment={"ONECARD_API_KEYS_FILE": str(keys)})
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                begun.get("/health")
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield begun
    finally:
        begun.stop()


def enter_key(page: Page, key: str) -> None:
    field = page.locator("#key-input")
    expect(field).to_be_focused()
    field.fill(key)
    page.keyboard.press("Enter")


def test_the_page_asks_for_the_key_and_shows_how_far_the_start_is(starting: Server, open_page: Open) -> None:
    page = open_page(starting.url)
    enter_key(page, "wrong")
    expect(page.locator("#key-problem")).to_have_text("The server does not know this key.")
    enter_key(page, KEY)
    expect(page.get_by_role("heading", name="The server is starting")).to_be_visible()
    expect(page.locator("#waiting-step")).not_to_be_empty()
    expect(page.locator("#waiting-left")).not_to_be_empty()
    assert complaints(page) == []
    screenshot(page, "starting")
    refused = ask(page, "Who are you?")
    assert "onecard is starting" in refused
    assert "The server asks to wait" in refused
    page.reload()  # the key is kept
    expect(page.locator("#state")).to_have_text("starting")
    assert KEY not in page.content()
    other = open_page(starting.url)
    expect(other.get_by_role("dialog")).to_be_visible()  # a session of its own has no key


@pytest.mark.long
def test_a_page_that_waits_sees_the_server_become_ready_and_the_quota_end(starting: Server, open_page: Open) -> None:
    page = open_page(starting.url)
    enter_key(page, KEY)
    expect(page.locator("#waiting")).to_be_visible()
    starting.wait_until_ready()
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#waiting")).to_be_hidden()
    assert "onecard-demo" in ask(page, "Who are you?")
    ask(page, "Who are you?")
    refused = ask(page, "Who are you?")
    assert "No answer" in refused
    assert "The server asks to wait" in refused
