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


@pytest.fixture(scope="session")
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


def low_contrast(page):
    """Texts of a page that do not stand out 4.5 to 1 (WCAG AA): [tag, text, ratio]."""
    return page.evaluate(
        """() => {
        const c = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const rgb = (colour, below) => { c.globalCompositeOperation = "copy";
          c.fillStyle = below; c.fillRect(0, 0, 1, 1); c.globalCompositeOperation = "source-over";
          c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const linear = (x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
        const light = (v) => { const [r, g, b] = v.map(linear);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = (e) => { for (; e; e = e.parentElement) { const b = getComputedStyle(e).backgroundColor;
          if (b !== "rgba(0, 0, 0, 0)") return b; } return "#fff"; };
        const out = [];
        for (const e of document.querySelectorAll("main *, header *")) {
          const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
          if (!text || e.closest(".plot, select, option")) continue;
          const g = ground(e), a = light(rgb(g, "#fff")), b = light(rgb(getComputedStyle(e).color, g));
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < 4.5) out.push([e.tagName, e.textContent.trim().slice(0, 30), ratio]);
        }
        return out; }"""
    )
