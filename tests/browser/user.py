"""What a user does on the playground, and what they see."""

import base64
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

# Makes the file in the page, then lets the event of `kind` carry it, as the browser does after a drop or a paste.
_CARRY = """([name, type, base64, kind]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true })
    : new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
  document.getElementById("question").dispatchEvent(event);
}"""


def until_ready(page: Page) -> None:
    page.wait_for_selector("#state[data-state=ready]")


def carry(page: Page, kind: str, data: bytes, name: str = "photo.png", media_type: str = "image/png") -> None:
    """`kind` is drop, dragover or paste."""
    page.evaluate(_CARRY, [name, media_type, base64.b64encode(data).decode(), kind])


def drop(page: Page, data: bytes, name: str = "photo.png", media_type: str = "image/png") -> None:
    carry(page, "dragover", data, name, media_type)
    expect(page.locator("#drop")).to_be_visible()
    carry(page, "drop", data, name, media_type)
    expect(page.locator("#drop")).to_be_hidden()


def pictures(page: Page) -> Locator:
    """Those that wait to be sent."""
    return page.locator("#tray img")


def ask(page: Page, question: str) -> str:
    """The answer, once it is complete."""
    before = page.locator(".answer").count()
    page.get_by_role("textbox").first.fill(question)
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_count(before + 1)
    expect(page.locator(".answer").last).to_have_attribute("aria-busy", "false")
    return last_answer(page)


def last_answer(page: Page) -> str:
    return page.locator(".answer .text").last.inner_text()


def set_schema(page: Page, schema: str) -> None:
    page.locator("details:has(#schema) > summary").click()
    page.locator("#schema").fill(schema)


def complaints(page: Page) -> list[str]:
    """What axe-core finds against the page as it stands."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [f"{each['id']} ({each['impact']}): {[node['html'][:120] for node in each['nodes']]}" for each in found]
