"""Pages in a real browser, which has to be quiet: nothing on the console, no request but for the file itself."""

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
MARKS = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium here (apt-get install chromium, or set CHROMIUM)"
    ),
    pytest.mark.xdist_group("browser"),
]
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is in requirements-test.txt")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_file(browser):
    """Opens a page; afterwards: nothing on the console, no request but for the file itself."""
    contexts, heard = [], []

    def open_(path, viewport=DESKTOP, scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
        page = context.new_page()
        page.on("console", lambda m: heard.append(f"console {m.type}: {m.text}"))
        page.on("pageerror", lambda e: heard.append(f"error: {e}"))
        page.on(
            "request", lambda r: heard.append(f"request: {r.url}") if not r.url.startswith("file:") else None
        )
        page.on("request", lambda r: asked.append(r.url))
        asked = []
        page.goto(path.as_uri())
        assert asked == [path.as_uri()]
        contexts.append(context)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert heard == []
