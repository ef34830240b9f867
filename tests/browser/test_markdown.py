"""Markdown to DOM nodes, in the browser: what it makes of an answer, and what it must not."""

import time

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Open
from tests.conftest import Server

_RENDER = """async (text) => {
  const { render } = await import("/web/markdown.js");
  const place = document.body.appendChild(document.createElement("div"));
  place.append(render(text));
  return place.innerHTML;
}"""


@pytest.fixture
def page(server: Server, open_page: Open) -> Page:
    return open_page(server.url)


CASES = {
    "# One\n\ntwo": "<h3>One</h3><p>two</p>",
    "a **b** *c* `d*e*` ~~f~~": "<p>a <strong>b</strong> <em>c</em> <code>d*e*</code> <s>f</s></p>",
    "- a\n- b\n  - c\n\n1. d": "<ul><li>a</li><li><p>b</p><ul><li>c</li></ul></li></ul><ol start=\"1\"><li>d</li></ol>",
    "> a\n> b": "<blockquote><p>a<br>b</p></blockquote>",
    "```js\n<b>*x*\n```": '<pre tabindex="0"><code>&lt;b&gt;*x*</code></pre>',
    "```{1}```\nafter": "<p><code>{1}</code><br>after</p>",
    "```\nstill coming": '<pre tabindex="0"><code>still coming</code></pre>',
    "|a|b|\n|-|-|\n|1|2|": '<div class="scroll" tabindex="0"><table><thead><tr><th>a</th><th>b</th></tr></thead>'
    "<tbody><tr><td>1</td><td>2</td></tr></tbody></table></div>",
    "2 * 3 * 4 and a_b_c": "<p>2 * 3 * 4 and a_b_c</p>",
    "红色的**圆形**。": "<p>红色的<strong>圆形</strong>。</p>",
}  # fmt: skip


def test_forms(page: Page) -> None:
    assert {text: page.evaluate(_RENDER, text) for text in CASES} == CASES


def test_a_link_leads_to_the_web_only_and_tells_nothing(page: Page) -> None:
    made = page.evaluate(_RENDER, "[here](https://example.com/a)")
    assert 'href="https://example.com/a"' in made
    assert 'rel="noopener noreferrer nofollow"' in made
    for target in ("javascript:alert(1)", "data:text/html,x", "vbscript:x", " javascript:alert(1)", "//example.com"):
        assert "<a" not in page.evaluate(_RENDER, f"[here]({target})"), target


@pytest.mark.parametrize(
    "text",
    [
        "<script>window.ran = 1</script>",
        "<img src=x onerror='window.ran = 1'>",
        "**<svg onload='window.ran = 1'>**",
        "![x](x' onerror='window.ran=1)",
        "![x](https://example.com/track.png)",
        "|<iframe src='javascript:parent.ran = 1'>|\n|-|\n|x|",
        "# <a href='javascript:window.ran = 1'>x</a>",
        "```\n</code></pre><script>window.ran = 1</script>\n```",
    ],
)
def test_nothing_in_an_answer_becomes_markup(page: Page, text: str) -> None:
    page.evaluate(_RENDER, text)
    page.wait_for_timeout(50)
    assert page.evaluate("window.ran") is None
    made = page.locator("body > div").last
    assert made.locator("script, img, svg, iframe, [onerror], [onload], a[href^=javascript]").count() == 0


@pytest.mark.parametrize(
    "text", ["*a " * 20_000, ">" * 20_000, "[" * 20_000, "`" * 20_001, "- " * 10_000, "|" * 20_000]
)
def test_hostile_answers_end(page: Page, text: str) -> None:
    """Neither the stack nor the browser's patience is used up; a stuck page would run into playwright's own time-out."""
    began = time.monotonic()
    assert page.evaluate(_RENDER, text)
    print(f"{text[:4]!r}: {time.monotonic() - began:.2f} s")  # noqa: T201
