"""The report: one self-contained HTML page, and the same tables and figures as files for papers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtabjax import installation, options, specs
from vtabjax.options import UsageError
from vtabjax.runtime import files
from vtabjax.tables import Table, to_csv, to_latex, to_markdown

if TYPE_CHECKING:
    from vtabjax.report.boards import ReportData


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
    from vtabjax import results
    from vtabjax.report import gather, published

    own = options.read(options.ReportOptions, config)
    workdir = files.as_path(workdir)
    if not workdir.is_dir():
        raise UsageError(f"--workdir={workdir}: there is no such folder; name the workdir of a sweep")
    if own.suite == "pack":
        return _pack(own, workdir)
    try:
        named = specs.split_list(own.published)
        packs = [results.read_pack(path) for name in named if (path := published.pack_path(name))]
        others = [published.read(name) for name in named if not published.pack_path(name)]
        top1 = published.imagenet(own.imagenet)
    except (published.PublishedError, results.PackError) as e:
        raise UsageError(str(e)) from e
    folder = workdir / "report"
    try:
        _check_folder(folder)
        models_dir = files.as_path(own.models_dir or workdir / "models")
        data = gather.gather(workdir, models_dir, others, top1, own.filter, own.score, packs)
        _check_reference(own.reference, data.boards)
        _write_all(data, own, workdir, folder)
    except OSError as e:
        raise UsageError(
            f"the report cannot be made in {folder} ({_reason(e)}); make room or make the folder writable"
        ) from e
    print(_summary(data, folder / "report.html", workdir), file=sys.stderr)
    return 0


def _pack(own: options.ReportOptions, workdir: Path) -> int:
    """Writes the results into one file for others."""
    from vtabjax import results

    try:
        made = results.pack(workdir, own.pack or workdir / "pack.parquet", who=own.who, licence=own.licence)
    except OSError as e:
        raise UsageError(f"the pack cannot be written ({_reason(e)})") from e
    except ValueError as e:
        raise UsageError(str(e)) from e
    unsaid = [name for name in ("who", "licence") if not getattr(made, name)]
    if unsaid:
        print(f"not stated: {' and '.join(unsaid)}; --config.{unsaid[0]}=... says it", file=sys.stderr)
    if made.local_names:
        print(f"readers will see these paths: {specs.listed(made.local_names)}", file=sys.stderr)
    models = {record["model"] for record in made.records}
    print(f"{len(made.records)} results of {len(models)} models: {made.path}", file=sys.stderr)
    return 0


def _check_folder(folder: Path) -> None:
    """Finds out before minutes of work that nothing can be written, and removes what a killed run left."""
    for name in ("tables", "figures"):
        files.write_text(folder / name / ".writable", "")
        (folder / name / ".writable").unlink()
    files.remove_stale_temporaries(folder)


def _reason(e: OSError) -> str:
    where = f"{e.filename}: " if e.filename else ""
    return where + (e.strerror or str(e))


def _summary(data: ReportData, page: Path, workdir: Path) -> str:
    own = {m.label for b in data.boards for m in b.models if not m.published}
    if not data.records and not data.errors:
        others = len({m.label for b in data.boards for m in b.models})
        shown = f"the page shows {others} published models" if others else "the page says how to start"
        return (
            f"no results in {workdir} yet; {shown}: {page}\n"
            f"the first results: {installation.command()} --config=configs/knn.py --workdir={workdir}"
        )
    counts = (f"{data.records} results of {len(own)} models", f"{len(data.errors)} failures")
    left_out = sum(n.startswith(("A file was left out", "A failure is not")) for n in data.notices)
    return ", ".join([*counts, *([f"{left_out} files left out"] * bool(left_out))]) + f": {page}"


def _write_all(data: ReportData, own: options.ReportOptions, workdir: Path, folder: Path) -> None:
    from vtabjax.report import analysis, funnel, page, proxies, proxy_tables, tables

    draws = analysis.Options(own.resamples, own.seed, own.tie_margin / 100, own.example_rounds, own.reference)
    analyses = [analysis.analyse(board, draws) for board in data.boards]
    comparison = proxies.compare_proxies(data, draws)
    by_board = {a.board.key: tables.board_tables(a) for a in analyses}
    of_proxies = proxy_tables.proxy_tables(comparison)
    for table in [table for of_board in by_board.values() for table in of_board.values()] + of_proxies:
        _write(table, folder / "tables")
    if (of_experiment := funnel.table(workdir)) is not None:
        _write(of_experiment, folder / "tables")
    figures: Sequence[str] = ()
    if own.figures:
        from vtabjax.report import figures as static

        figures = static.write(analyses, comparison, folder / "figures")
    title = own.title or f"vtabjax: {workdir.resolve().name}"
    html = page.render(data, analyses, by_board, comparison, of_proxies, draws, own, workdir, title, figures)
    # A folder's name may hold bytes that are no text.
    files.write_text(folder / "report.html", html.encode("utf-8", "backslashreplace").decode())


def _check_reference(reference: str, boards: Sequence[Any]) -> None:
    labels = list(dict.fromkeys(m.label for b in boards for m in b.models))
    if reference and reference not in labels:
        near = specs.nearest(reference, labels)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"config.reference={reference!r} is not one of the models here{hint}")


def _write(table: Table, folder: Path) -> None:
    files.write_text(folder / f"{table.key}.csv", to_csv(table))
    files.write_text(folder / f"{table.key}.md", to_markdown(table))
    files.write_text(folder / f"{table.key}.tex", to_latex(table))
