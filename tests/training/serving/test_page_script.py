"""The page's script in a real Chromium, with answers that come when the test lets them."""

import io
from pathlib import Path
from urllib.parse import urlparse

from browser import opened_chromium
from PIL import Image
from playwright.sync_api import FilePayload, Route, expect

PAGE = Path(__file__).resolve().parents[3] / "training" / "serving" / "page"
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}


def picture(grey: int) -> FilePayload:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), grey).save(buffer, "PNG")
    return {"name": f"{grey}.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def test_an_answer_about_a_picture_that_was_replaced_is_not_shown_under_the_new_one() -> None:
    captions: list[Route] = []

    def answer(route: Route) -> None:
        path = urlparse(route.request.url).path
        if path in FILES:
            route.fulfill(path=PAGE / FILES[path])
        elif path == "/v1/caption":
            captions.append(route)
        elif path == "/readyz":
            route.fulfill(json={"model": None})
        else:
            route.fulfill(status=503, json={"error": {"code": "busy", "message": "busy"}})

    with opened_chromium() as browser:
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto("http://localhost/")
        for number in (1, 2):
            page.get_by_label("Drop a picture here, or choose one").set_input_files([picture(100 * number)])
            while len(captions) < number:
                page.wait_for_timeout(20)
        captions[0].fulfill(json={"caption": "of the first"})
        captions[1].fulfill(json={"caption": "of the second"})
        expect(page.get_by_role("status")).to_contain_text("of the second")
        expect(page.locator("#answers li")).to_have_count(1)
        expect(page.locator("#answers li")).to_contain_text("of the second")
