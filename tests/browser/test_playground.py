"""The playground in a real Chromium over the real server: what a user does with it, and what they get."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from tests import drawing
from tests.browser.conftest import Open, screenshot
from tests.browser.user import ask, carry, complaints, drop, last_answer, pictures, set_schema, until_ready
from tests.conftest import Server

RED_CIRCLE = drawing.encoded(drawing.circle(drawing.blank(), 320, 240, 110, "red"))
BLUE_SQUARE = drawing.encoded(drawing.square(drawing.blank(500, 500), 250, 250, 90, "blue"))
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LONG = json.dumps({"type": "array", "minItems": 500, "items": {"enum": ["red", "blue"]}})


@pytest.fixture
def page(server: Server, open_page: Open) -> Page:
    opened = open_page(server.url)
    until_ready(opened)
    return opened


def until_idle(server: Server) -> None:
    """Until the engine works on nothing: what was stopped is not answered on behind the user's back."""
    deadline = time.monotonic() + 20
    while server.get("/onecard/status").json()["queue"]["running"]:
        assert time.monotonic() < deadline, "the answer goes on"
        time.sleep(0.1)


def test_a_dropped_picture_is_answered_and_the_conversation_goes_on(page: Page) -> None:
    drop(page, BLUE_SQUARE)
    assert "square" in ask(page, "What shape is in the picture?")
    expect(page.locator(".asked img")).to_have_attribute("alt", "Picture 1: photo.png")
    assert "blue" in ask(page, "What color is it?")
    assert page.locator(".turn").count() == 2
    expect(page.locator("#said")).to_contain_text("The answer is complete.")  # for a screen reader
    expect(page.locator(".answer .note").last).to_contain_text("tokens, first after")
    screenshot(page, "conversation")
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".turn").count() == 0


def test_several_pictures_pasted_and_chosen_and_one_taken_out_again(page: Page) -> None:
    carry(page, "paste", RED_CIRCLE, "first.png")
    expect(pictures(page)).to_have_count(1)
    more = [{"name": name, "mimeType": "image/png", "buffer": BLUE_SQUARE} for name in ("second.png", "third.png")]
    page.locator("#files").set_input_files(more)
    expect(pictures(page)).to_have_count(3)
    page.get_by_role("button", name="Remove third.png").click()
    expect(pictures(page)).to_have_count(2)
    assert "2" in ask(page, "In which picture is there a square?")


def test_an_example_is_one_click(page: Page) -> None:
    page.get_by_role("button", name="Count").click()
    expect(page.locator(".answer .text")).to_contain_text("3")


def begin_long_answer(page: Page) -> None:
    """Returns while it comes."""
    set_schema(page, LONG)
    page.locator("#length").fill("2000")
    page.locator("#question").fill("Name colors.")
    page.keyboard.press("Enter")
    page.locator(".answer[aria-busy=true] .text:not(:has(.dots))").wait_for()


def test_an_answer_comes_bit_by_bit_and_can_be_stopped(server: Server, page: Page) -> None:
    begin_long_answer(page)
    page.get_by_role("button", name="Stop").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator(".answer .note")).to_have_text("Stopped.")
    stopped = last_answer(page)
    until_idle(server)
    assert last_answer(page) == stopped
    page.locator("#schema").fill("")
    page.get_by_role("button", name="New conversation").click()
    drop(page, RED_CIRCLE)
    assert "red" in ask(page, "What color is the circle?")


def test_what_is_stopped_before_its_first_word_comes_back_too(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda _: None)  # as of a server that has much to do
    drop(page, RED_CIRCLE)
    page.locator("#question").fill("What color is the circle?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer")).to_contain_text("Stopped.")
    assert page.locator("#question").input_value() == "What color is the circle?"
    expect(pictures(page)).to_have_count(1)


def test_a_new_conversation_knows_nothing_of_the_answer_that_it_ended(page: Page) -> None:
    begin_long_answer(page)
    page.get_by_role("button", name="New conversation").click()
    page.locator("#schema").fill("")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "hi")
    assert sent.value.post_data_json["messages"] == [{"role": "user", "content": "hi"}]


def test_what_is_no_picture_is_said_and_not_sent(page: Page) -> None:
    carry(page, "drop", b"Dear diary", "notes.txt", "text/plain")
    expect(page.get_by_role("alert")).to_contain_text("notes.txt is not a picture")
    expect(pictures(page)).to_have_count(0)
    page.evaluate(
        """() => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(40 * 2 ** 20)], "huge.png", { type: "image/png" }));
          dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
        }"""
    )
    expect(page.get_by_role("alert")).to_contain_text(
        "huge.png is too large: 40.0 MiB, and a whole request may be 32 MiB"
    )


def test_what_the_server_refuses_comes_back_to_be_changed(page: Page) -> None:
    drop(page, drawing.encoded(Image.new("1", (20_000, 20_000))), "bomb.png")
    answer = ask(page, "What color is the circle?")
    assert "No answer" in answer
    assert "megapixels" in answer
    screenshot(page, "refused")
    assert page.locator("#question").input_value() == "What color is the circle?"
    page.get_by_role("button", name="Remove bomb.png").click()
    drop(page, RED_CIRCLE)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".answer .text")).to_contain_text("red")
    assert page.locator(".turn").count() == 1


def test_a_schema_that_is_not_json_is_said_at_the_field(page: Page) -> None:
    set_schema(page, "{shape}")
    page.locator("#question").fill("hi")
    page.keyboard.press("Enter")
    expect(page.locator("#schema-problem")).to_contain_text("This is not JSON")
    assert page.locator(".turn").count() == 0


def test_a_setting_that_is_wrong_is_shown_though_the_settings_are_closed(page: Page) -> None:
    settings = page.locator("details:has(#temperature)")
    settings.locator("summary").click()
    page.locator("#temperature").fill("9")
    settings.locator("summary").click()
    page.locator("#question").fill("hi")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#temperature")).to_be_focused()
    assert page.locator(".turn").count() == 0
    page.locator("#temperature").fill("0.25")
    settings.locator("summary").click()
    page.locator("#question").press("Enter")
    expect(page.locator(".answer .note")).to_contain_text("tokens, first after")


def test_boxes_are_drawn_on_the_picture(page: Page) -> None:
    set_schema(page, '{"const": [{"bbox_2d": [328, 270, 672, 730], "label": "red circle"}]}')
    drop(page, RED_CIRCLE)
    ask(page, "Locate the circle.")
    box = page.locator(".boxed rect").last
    assert [box.get_attribute(name) for name in ("x", "y", "width", "height")] == ["328", "270", "344", "460"]
    picture, drawn = page.locator(".boxed img").bounding_box(), box.bounding_box()
    assert picture
    assert drawn
    assert drawn["x"] + drawn["width"] / 2 == pytest.approx(picture["x"] + picture["width"] / 2, abs=3)
    expect(page.get_by_role("img", name="1 marked on the picture: red circle")).to_be_visible()
    screenshot(page, "boxes")


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_the_code_asks_the_same(page: Page, language: str, tmp_path: Path) -> None:
    program = {"curl": "bash", "Python": sys.executable, "JavaScript": "node"}[language]
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    drop(page, RED_CIRCLE, "it's $HOME.png")
    page.locator("#question").fill("picture: What is in the picture? `$(id)` \\n")
    page.locator("details:has(#temperature) > summary").click()
    page.locator("#temperature").fill("0")
    page.locator("#code summary").click()
    page.get_by_role("radio", name=language).check()
    # The browser tells of the opened part when it gets to it, and then the code is written.
    expect(page.locator("#snippet")).to_contain_text(
        {"curl": "curl ", "Python": "OpenAI(", "JavaScript": "fetch("}[language]
    )
    code = page.locator("#snippet").inner_text()
    (tmp_path / "it's $HOME.png").write_bytes(RED_CIRCLE)
    script = tmp_path / ("ask.mjs" if language == "JavaScript" else "ask")
    script.write_text(code)
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [program, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)["choices"][0]["message"]["content"] if language == "curl" else done.stdout.strip()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".answer .text")).to_have_text(answer)


def test_the_panel_shows_the_server_live(page: Page) -> None:
    drop(page, RED_CIRCLE)
    ask(page, "What is in the picture?")
    for fact, text in {"model": "onecard-demo", "profile": "cpu", "queue": "0 running, 0 waiting"}.items():
        expect(page.locator(f"#fact-{fact}")).to_have_text(text)
    expect(page.locator("#fact-first")).to_contain_text(" s")
    expect(page.locator("#fact-speed")).not_to_have_text("–")
    expect(page.get_by_role("rowheader", name="KV cache")).to_be_visible()


def test_what_was_measured_stands_beside_the_plan(page: Page) -> None:
    def on_a_card(route: Route) -> None:
        """The real status, with what only a GPU's worker can measure."""
        status = route.fetch().json()
        status["plan"]["gpu"] = {"name": "RTX 3060", "total_mib": 12288, "usable_mib": 11500}
        status["measured"]["memory_mib"] = {"weights": 21, "kv_cache": 256, "context": 1200}
        route.fulfill(json=status)

    page.route("**/onecard/status", on_a_card)
    expect(page.locator("#memory .note")).to_have_text("Planned 2,405 of 12,288 MiB · Measured 1,477 MiB")
    expect(page.get_by_role("row", name="context")).to_contain_text("1,200 MiB")
    planned, measured = (page.locator(f".bar.{kind}") for kind in ("planned", "measured"))
    assert _filled(page, planned) == pytest.approx(2405 / 12288, abs=0.03)
    assert _filled(page, measured) == pytest.approx(1477 / 12288, abs=0.03)
    page.unroute_all(behavior="wait")


def _filled(page: Page, bar: Locator) -> float:
    """The share of a bar that its parts take."""
    share: float = page.evaluate(
        """bar => [...bar.children].reduce((sum, part) => sum + part.getBoundingClientRect().width, 0)
          / bar.getBoundingClientRect().width""",
        bar.element_handle(),
    )
    return share


def test_in_chinese(page: Page) -> None:
    page.get_by_role("button", name="中文").click()
    drop(page, RED_CIRCLE)
    assert "红色" in ask(page, "图片中有什么？")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    expect(page.locator("#panel-title")).to_have_text("服务器")
    assert complaints(page) == []
    screenshot(page, "chinese")
    page.reload()
    expect(page.get_by_role("button", name="提问")).to_be_visible()


def test_on_a_phone_in_the_dark(server: Server, open_page: Open) -> None:
    page = open_page(server.url, color_scheme="dark", **PHONE)
    until_ready(page)
    expect(page.get_by_role("button", name="Take a photo")).to_be_visible()
    page.locator("#camera").set_input_files([{"name": "photo.png", "mimeType": "image/png", "buffer": RED_CIRCLE}])
    expect(pictures(page)).to_have_count(1)
    assert "red" in ask(page, "What color is the circle?")
    page.locator("#code summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert complaints(page) == []
    screenshot(page, "phone")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(server: Server, open_page: Open, scheme: str) -> None:
    page = open_page(server.url, color_scheme=scheme)
    until_ready(page)
    assert complaints(page) == []
    drop(page, RED_CIRCLE)
    ask(page, "What is in the picture?")
    for summary in page.locator("summary").all():
        summary.click()
    carry(page, "drop", b"", "notes.txt", "text/plain")
    assert complaints(page) == []
    page.get_by_role("button", name="API key").click()
    assert complaints(page) == []


def test_by_keyboard_alone(page: Page) -> None:
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.tagName")
        reached.append(name)
    assert {"new", "key", "theme", "language", "question", "choose", "send", "SUMMARY"} <= set(reached)
    page.locator("#theme").press("Enter")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
