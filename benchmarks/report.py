"""The report at full size: 300 models x 19 tasks under four protocols, written and then opened in headless Chromium.

    pip install -r requirements-test.txt
    python benchmarks/report.py

The results are made up (tests/support/report_data.py), 400 test examples each. Measured: seconds until the files are
written, the page's size, its first paint and load, and how long sorting and filtering the table of models and tasks
takes until the next frame is drawn; and the bootstrap of the strengths alone. There is no rival; the figures are for
docs/report.md.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import _alternate
import numpy as np
import report_data
from playwright.sync_api import sync_playwright

from configs import report as report_config
from vtabjax import report, tasks
from vtabjax.ranking import resampling

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
# Milliseconds from the input to the frame after it.
_LATENCIES = """async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const timed = async (act) => {
    await frame();
    const start = performance.now();
    act();
    await frame();
    return Math.round(performance.now() - start);
  };
  const box = document.querySelector("#ranking .filters input");
  const filter = [];
  for (const text of ["resnet", "resnet_0", "", "vit", ""])
    filter.push(await timed(() => { box.value = text; box.dispatchEvent(new Event("input", { bubbles: true })); }));
  const heads = document.querySelectorAll(".heat thead button");
  const sort = [];
  for (const column of [3, 4, 0]) sort.push(await timed(() => heads[column].click()));
  return { filter, sort, rows: document.querySelectorAll(".heat tbody tr").length };
}"""


def opened(path: pathlib.Path) -> dict:
    """Milliseconds in a real browser."""
    with sync_playwright() as playwright:
        flags = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri())
        paint = page.evaluate(
            "Object.fromEntries(performance.getEntriesByType('paint').map(e => [e.name, Math.round(e.startTime)]))"
        )
        load = page.evaluate("Math.round(performance.getEntriesByType('navigation')[0].loadEventEnd)")
        found = page.evaluate(_LATENCIES)
        version = browser.version
        browser.close()
    return {"browser": version, "ms_first_paint": paint["first-contentful-paint"], "ms_load": load,
            "ms_filter": found["filter"], "ms_sort": found["sort"], "rows": found["rows"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--page", type=pathlib.Path, help="only open this one, which was written before")
    parser.add_argument("--out", type=pathlib.Path, default=_alternate.RESULTS / "report.json")
    args = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("no Chromium found; install it or set CHROMIUM to its path")
    environment = _alternate.environment("numpy", "playwright")
    task = f"{args.models} models x {len(tasks.VTAB)} tasks, four protocols, 1,000 resamples"
    if args.page:
        environment["command"] = environment["command"].replace(str(args.page.parent), "FOLDER")
        found = {"megabytes": args.page.stat().st_size / 1e6, **opened(args.page)}
        _alternate.write(args.out, {"task": task, **environment, **found})
        return
    scores = np.random.default_rng(0).normal(size=(args.models, 19)) + np.linspace(0, 2, args.models)[:, None]
    start = time.perf_counter()
    resampling.bootstrap(scores, n_resamples=200)
    strengths = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        report_data.sweep(folder, args.models, tasks.VTAB)
        config = report_config.get_config()
        seconds = {}
        for figures in (False, True):
            config.figures = figures
            start = time.perf_counter()
            report.run(config, folder)
            seconds["with figures" if figures else "page and tables"] = time.perf_counter() - start
        path = pathlib.Path(folder) / "report" / "report.html"
        result = {
            "task": task,
            **environment,
            "seconds_bootstrap_of_strengths_200_resamples": strengths,
            "seconds_to_write": seconds,
            "megabytes": path.stat().st_size / 1e6,
            **opened(path),
        }
    _alternate.write(args.out, result)


if __name__ == "__main__":
    main()
