"""The page to try a model, driven in a real Chromium: upload, answer, keyboard, screen reader, both colour schemes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import SCREENSHOTS, contrast, opened_chromium
from playwright.sync_api import Page, expect
from served_model import TOKEN

pytestmark = pytest.mark.slow
QUESTION = "how many digits are there?"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with opened_chromium() as browser:
        yield browser


@pytest.fixture(params=["light", "dark"])
def page(chromium: Any, running: Any, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Fails where the page asks anybody but its server, or breaks its own policy."""
    context = chromium.new_context(color_scheme=request.param, viewport={"width": 900, "height": 900})
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Security Policy" in message.text else None)
    page.goto(running.server.url + "/")
    yield page
    assert all(url.startswith((running.server.url, "blob:")) for url in asked), asked
    assert not complaints
    context.close()


def upload(page: Page, running: Any, tmp_path: Path) -> None:
    """As anybody does who has the token: it is asked for at the first answer."""
    (tmp_path / "picture.png").write_bytes(running.pictures[0])
    page.get_by_label("Drop a picture here, or choose one").set_input_files(tmp_path / "picture.png")
    expect(page.get_by_role("alert")).to_contain_text("no token was found")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Ask").click()


def test_a_picture_is_captioned_and_asked_about(page: Page, running: Any, tmp_path: Path) -> None:
    upload(page, running, tmp_path)
    caption = running.post("/v1/caption", files={"image": running.pictures[0]}).json()["caption"]
    expect(page.get_by_role("status")).to_have_text(f"Caption: {caption}")
    expect(page.get_by_role("list", name="Parts that carried the answer").get_by_role("listitem")).to_have_count(3)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_label("Question").press("Enter")
    asked = running.post("/v1/ask", files={"image": running.pictures[0]}, data={"questions": QUESTION}).json()
    expect(page.get_by_role("status")).to_have_text(f"{QUESTION}: {asked['answers'][0]['answer']}")
    expect(page.locator("#legend")).to_contain_text("bright ones carried it")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    scheme = "dark" if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
    page.screenshot(path=SCREENSHOTS / f"page-{scheme}.png", full_page=True)


def test_the_keyboard_alone_is_enough(page: Page, running: Any, tmp_path: Path) -> None:
    upload(page, running, tmp_path)
    expect(page.get_by_role("status")).to_contain_text("Caption:")
    page.locator("body").press("Tab")
    visited: list[str] = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(8):
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.id"))
        if visited[-1]:
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"{visited[-1]} does not show that it has the focus"
        if visited[-1] == "question":
            page.keyboard.type(QUESTION)
        if visited[-1] == "submit":
            page.keyboard.press("Enter")
            break
    assert visited[-3:] == ["token", "question", "submit"], visited
    expect(page.get_by_role("status")).to_contain_text(QUESTION)


def test_every_control_has_a_name_and_the_text_stands_out(page: Page) -> None:
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, button, canvas')]"
        ".filter(e => !e.labels?.length && !e.textContent && !e.ariaLabel).map(e => e.id)"
    )
    assert not unnamed
    colours = page.evaluate(
        "['#model', 'h1', '#status', 'button'].map(s => { const e = document.querySelector(s);"
        "let b = e; while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;"
        "return [getComputedStyle(e).color, getComputedStyle(b).backgroundColor]; })"
    )
    for text, ground in colours:
        assert contrast(text, ground) >= 4.5, (text, ground)


def test_the_policy_lets_nothing_in_from_elsewhere(running: Any) -> None:
    answer = httpx.get(running.server.url + "/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "*" not in policy
    assert "http" not in answer.text
