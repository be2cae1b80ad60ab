"""The report: one self-contained HTML page, and the same tables and figures as files for papers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtabjax import files, specs, tables
from vtabjax.plan import UsageError


def run(config: Any, workdir: str | os.PathLike) -> int:
    """Writes ``WORKDIR/report``: report.html, ``tables/`` (CSV, Markdown, LaTeX) and ``figures/`` (PDF, PNG).

    Args:
      config: see configs/report.py.
      workdir: the sweep's folder.

    Returns:
      The exit status, 0.

    Raises:
      UsageError: a field of the config is wrong, or there is no such folder.
    """
    from vtabjax.report import analysis, gather, page, proxies, published, sheets

    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UsageError(f"--workdir={workdir}: there is no such folder; name the one a sweep wrote to")
    options = _options(config)
    try:
        others = [published.read(name) for name in specs.split_list(config.published)]
        top1 = published.imagenet(config.imagenet)
    except published.PublishedError as e:
        raise UsageError(str(e)) from e
    found = gather.gather(workdir, Path(config.models_dir or workdir / "models"), others, top1)
    _check_reference(options.reference, found.boards)
    analyses = [analysis.analyse(board, options) for board in found.boards]
    judged = proxies.compare_proxies(found, options)
    by_board = {a.board.key: sheets.board_tables(a) for a in analyses}
    trusted = sheets.proxy_tables(judged)
    folder = workdir / "report"
    for sheet in [s for found_ in by_board.values() for s in found_.values()] + trusted:
        _write(sheet, folder / "tables")
    figures: Sequence[str] = ()
    if config.figures:
        from vtabjax.report import figures as static

        figures = static.write(analyses, judged, folder / "figures")
    title = config.title or f"vtabjax: {workdir.resolve().name}"
    html = page.render(found, analyses, by_board, judged, trusted, options, workdir, title, figures)
    files.write_text(folder / "report.html", html)
    n = len({m.label for a in analyses for m in a.board.models})
    print(
        f"{found.records} results of {n} models, {len(found.errors)} failures: {folder / 'report.html'}",
        file=sys.stderr,
    )
    return 0


def _options(config: Any):
    from vtabjax.report.analysis import Options

    for field, least in (("resamples", 100), ("example_rounds", 0)):
        if config[field] < least:
            raise UsageError(f"config.{field}={config[field]} is too small: it must be at least {least}")
    if not 0 <= config.tie_margin < 100:
        raise UsageError(f"config.tie_margin={config.tie_margin}: give points of accuracy, 0 to 100")
    return Options(
        config.resamples, config.seed, config.tie_margin / 100, config.example_rounds, config.reference
    )


def _check_reference(reference: str, boards: Sequence[Any]) -> None:
    labels = list(dict.fromkeys(m.label for b in boards for m in b.models))
    if reference and reference not in labels:
        near = specs.nearest(reference, labels)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"config.reference={reference!r} is none of the models here{hint}")


def _write(sheet: Any, folder: Path) -> None:
    shown = sheet.shown()
    files.write_text(folder / f"{sheet.key}.csv", tables.to_csv(sheet.raw()))
    files.write_text(folder / f"{sheet.key}.md", tables.to_markdown(shown))
    files.write_text(folder / f"{sheet.key}.tex", tables.to_latex(shown))
