"""Makes the pictures of the pages anew: the terminal at work, the report's first screen.

    python docs/pictures.py

The terminal is a real one (a pseudo-terminal, read by pyte) in which the first command of the README runs; the page is
that of the published results, which needs no sweep, in Chromium. Both take a minute; requirements-test.txt has what
they need.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import fcntl
import io
import itertools
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "img"
COMMAND = "python main.py --config=configs/knn.py"
COLUMNS, LINES = 92, 24
_CELLS = 14  # done when the picture is taken
_SECONDS = 170


def main() -> None:
    """Makes both, or one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["terminal", "report"])
    only = parser.parse_args().only
    for name in [only] if only else ["terminal", "report"]:
        with tempfile.TemporaryDirectory() as folder:
            made = terminal(folder) if name == "terminal" else report(Path(folder))
        print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1000:.0f} kB")


def terminal(folder: str) -> Path:
    """The first command, when most of its cells are done."""
    import pyte

    screen = pyte.Screen(COLUMNS, LINES)
    stream, decode = pyte.Stream(screen), codecs.getincrementaldecoder("utf-8")()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    # The program is at home in the folder, so that its messages name runs/mini.
    command = [sys.executable, ROOT / "main.py", f"--config={ROOT}/configs/knn.py"]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=folder, env=environment)
    os.close(theirs)
    stream.feed(f"$ {COMMAND}\r\n")
    until = time.monotonic() + _SECONDS
    while not any(re.search(rf"\b{_CELLS}/18\b|\b{_CELLS} of 18\b", line) for line in screen.display):
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(
                "ended, or took too long, before its picture was taken:\n" + "\n".join(screen.display)
            )
        if select.select([ours], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # it ended
                stream.feed(decode.decode(os.read(ours, 65536)))
    picture = _drawn(screen)
    process.terminate()
    process.wait()
    path = IMAGES / "terminal.svg"
    path.write_text(picture, encoding="utf-8")
    return path


def _drawn(screen: object) -> str:
    """The screen as SVG, by rich."""
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

    texts = []
    for y in range(LINES):
        row = screen.buffer[y]  # type: ignore[attr-defined]
        text = Text()
        for (fg, bold), run in itertools.groupby(range(COLUMNS), lambda x: (row[x].fg, row[x].bold)):  # noqa: B023
            text.append("".join(row[x].data for x in run), Style(color=_colour(fg), bold=bold))
        text.rstrip()
        texts.append(text)
    while texts and not texts[-1].plain:
        texts.pop()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for text in texts:
        console.print(text, no_wrap=True)
    made = console.export_svg(title="vtabjax", unique_id="vtabjax")
    # No font from elsewhere.
    made = re.sub(r"@font-face \{.*?\}\s*", "", made, flags=re.S)
    return made.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")


def _colour(name: str) -> str | None:
    """pyte's name of a colour as rich's."""
    if name == "default":
        return None
    known = {"brown": "yellow", "brightblack": "bright_black"}
    return known.get(name, name if name.isalpha() else f"#{name}")


def report(folder: Path) -> Path:
    """The first screen of the published results' page."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    command = [sys.executable, ROOT / "main.py", f"--config={ROOT}/configs/report.py", f"--workdir={folder}"]
    subprocess.run([*command, "--config.published=vtab", "--config.figures=false"], check=True)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    path = IMAGES / "report.png"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 1240}, color_scheme="light")
        page.goto((folder / "report" / "report.html").as_uri())
        page.wait_for_selector("main .plot .main-svg")
        # The folder's name is of this run.
        page.evaluate("document.querySelector('.brand b').textContent = 'vtab'")
        page.screenshot(path=path)
        browser.close()
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    return path


if __name__ == "__main__":
    main()
