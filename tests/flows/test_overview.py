"""The page of `frostline overview`, driven in a real Chromium: figures, charts, keyboard, both colour schemes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import SCREENSHOTS, contrast, opened_chromium
from playwright.sync_api import Page, expect
from storied import four_weeks

from flows.overview import overview_command, render_overview
from flows.storytelling import tell
from infra.errors import ConfigError
from infra.store import LocalStore
from training.made import OutputReader

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with opened_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overview")
    four_weeks(LocalStore(folder / "store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        overview_command(str(folder / "store"), folder / "overview.html", as_json=False)
    return folder / "overview.html"


@pytest.fixture(params=["light", "dark"])
def page(chromium: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Fails where the page asks for anything but itself, or breaks its own policy."""
    context = chromium.new_context(color_scheme=request.param, viewport={"width": 1000, "height": 900})
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(file.as_uri())
    yield page
    assert asked == [file.as_uri()] and not complaints
    context.close()


def test_the_page_tells_the_story(page: Page) -> None:
    expect(page.locator(".card").first).to_contain_text("weekly version 1 serves")
    expect(page.locator(".card").first).to_contain_text("0.580")
    expect(page.locator("header")).to_contain_text("weekly version 4 waits for approval")
    quality = page.get_by_role("table", name="weekly")
    expect(quality.get_by_role("row")).to_have_count(4)
    expect(quality).to_contain_text("0.540 to 0.620")
    decisions = page.get_by_role("table", name="Newest first")
    for kind in ("Promoted by the gate", "Rolled back", "Refused by the gate", "Waits for approval"):
        expect(decisions.get_by_role("rowheader", name=kind).first).to_be_visible()
    expect(decisions).to_contain_text("promotion <of> 1")  # as text, not as an element
    scheme = "dark" if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"overview-{scheme}.png", full_page=True)


def test_charts_are_drawn_where_their_values_say(page: Page) -> None:
    for name in ("weekly, vqa_accuracy", "Decisions over time", "Images.", "Seconds", "Images per second"):
        expect(page.get_by_role("img", name=name).first).to_be_visible()
    whiskers = page.locator("#quality .whisker").count()
    assert whiskers == 3
    tops = page.locator("#encodes circle").evaluate_all(
        "all => all.map(e => [e.textContent, e.getBoundingClientRect().top])"
    )
    encoded = [top for told, top in tops if told.startswith("Encoded")]
    saved = [top for told, top in tops if told.startswith("Saved")]
    assert encoded == sorted(encoded, reverse=True) and encoded[0] < saved[0] and saved[-1] < encoded[-1]


def test_the_keyboard_reaches_every_section_and_table(page: Page) -> None:
    visited: list[str] = []
    for _ in range(20):
        page.keyboard.press("Tab")
        told = page.evaluate("document.activeElement.textContent.trim()")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", told
        visited.append(told)
        if told == "As a table":
            page.keyboard.press("Enter")
            break
    assert visited[0] == "To the content" and "Champions" in visited
    expect(page.locator("#data td").first).to_be_visible()


def test_text_stands_out_from_its_ground(page: Page) -> None:
    colours = page.evaluate(
        "['h1', '.soft', 'nav a', '.card', 'thead th', '.legend li', 'svg text'].map(s => {"
        "const e = document.querySelector(s); let b = e;"
        "while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;"
        "const c = getComputedStyle(e); return [s === 'svg text' ? c.fill : c.color,"
        "getComputedStyle(b).backgroundColor]; })"
    )
    for text, ground in colours:
        assert contrast(text, ground) >= 4.5, (text, ground)


def test_an_empty_store_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    text = render_overview(tell(OutputReader(LocalStore(tmp_path)))[0], "now")
    assert "No champion yet" in text and "<script" not in text and "http" not in text.replace("http-equiv", "")


def test_a_page_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none/overview\.html: the page cannot be written \(No such file"):
        overview_command(str(tmp_path / "store"), tmp_path / "none" / "overview.html", as_json=False)
