"""The playground's files: what the server says of them, and what they must not hold."""

import re
import shutil
import subprocess

import pytest

from serving.guard.page import FOLDER, Page
from tests.asgi import Recorder, error_of, request

FILES = sorted(file.name for file in FOLDER.iterdir())


def test_the_page_and_its_files_are_served_and_nothing_else() -> None:
    app = Page(Recorder())
    page = request(app, "GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in re.findall(r'(?:href|src)="(web/[^"]+)"', page.text):
        assert request(app, "GET", f"/{name}").content == (FOLDER / name.removeprefix("web/")).read_bytes()
    for path in ("/web/", "/web/index.html", "/web/../stack.py", "/web/%2e%2e/page.py", "/index.html"):
        assert request(app, "GET", path).content == b"", path  # what is below answers


def test_it_is_asked_for_again_and_not_sent_again() -> None:
    app = Page(Recorder())
    first = request(app, "GET", "/web/app.js")
    again = request(app, "GET", "/web/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (first.headers["cache-control"], again.status_code, again.content) == ("no-cache", 304, b"")


def test_no_other_method() -> None:
    reply = request(Page(Recorder()), "POST", "/")
    assert (reply.status_code, reply.headers["allow"], error_of(reply)["code"]) == (
        405,
        "GET, HEAD",
        "method_not_allowed",
    )


def test_the_policy_forbids_what_is_inline_or_elsewhere() -> None:
    policy = request(Page(Recorder()), "GET", "/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_nothing_is_inline_and_nothing_is_parsed_as_html() -> None:
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for name in FILES:
        text = (FOLDER / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name
        # No address but the namespace of SVG, which nobody fetches.
        assert set(re.findall(r"https?://[\w.]+\w", text)) <= {"http://www.w3.org"}, name


def test_it_is_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in FILES) < 150_000


def test_both_languages_say_the_same_things() -> None:
    text = (FOLDER / "words.js").read_text()
    english, chinese = (set(re.findall(r'(\w+): "', part)) for part in text.split("\n  zh: {"))
    assert english == chinese
    named = re.findall(r'data-(?:word|label|placeholder)="(\w+)"', (FOLDER / "index.html").read_text())
    assert set(named) <= english


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here, which would read the scripts")
@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_scripts_are_modules_that_parse(name: str) -> None:
    done = subprocess.run(
        ["node", "--check", "--input-type=module"], input=(FOLDER / name).read_bytes(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
