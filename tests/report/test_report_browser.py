"""The report in a real browser: what it shows, how it sorts and filters by mouse and keyboard; and it is quiet."""

import csv
import json
import re
import shutil
import types

import chromium
import numpy as np
import pytest
import report_data
from chromium import DESKTOP, PHONE

from configs import report as report_config
from vtabjax import report, results, tasks
from vtabjax.ranking import resampling
from vtabjax.report import templates
from vtabjax.results import Cell

pytestmark = chromium.MARKS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A mini sweep of eight models on three tasks under four protocols, with a failure, beside the official table."""
    workdir = tmp_path_factory.mktemp("sweep")
    report_data.sweep(workdir, 8, tasks.EMBEDDED)
    cell = Cell("finetune", "timm/broken", "digits", report_data.SETTINGS["finetune"])
    results.save_error(cell, workdir, stage="convert", message="<b>no</b> operator", traceback="")
    config = report_config.get_config()
    config.published, config.resamples, config.figures = "vtab", 200, False
    assert report.run(config, workdir) == 0
    return types.SimpleNamespace(workdir=workdir, path=workdir / "report" / "report.html")


@pytest.fixture
def open_page(open_file, made):
    """Opens the report."""
    return lambda viewport=DESKTOP, scheme="light", path=None: open_file(path or made.path, viewport, scheme)


def table(page):
    """The heat map as shown: header, visible rows as texts."""
    return page.evaluate(
        """() => { const t = document.querySelector(".heat");
        const text = (c) => c.textContent.trim();
        return { head: [...[...t.tHead.rows].at(-1).cells].map(text),
                 rows: [...t.tBodies[0].rows].filter((r) => !r.hidden).map(
                   (r) => [r.dataset.label, ...[...r.cells].slice(1).map(text)]) }; }"""
    )


def records(made, protocol="finetune"):
    return {(r["model"], r["task"]): (path, r) for path, r in results.records(made.workdir, protocol)}


def show(page, title):
    page.get_by_label("Results of").select_option(label=title)


@pytest.mark.parametrize(
    ("protocol", "title", "metric"),
    [
        ("finetune", "Fine-tuning", "accuracy"),
        ("linear", "Linear evaluation", "accuracy"),
        ("knn", "Nearest neighbours (euclidean)", "accuracy"),
        ("knn", "Nearest neighbours (cosine)", "accuracy_cosine"),
    ],
)
def test_every_number_is_the_jsons(open_page, made, protocol, title, metric):
    page = open_page()
    show(page, title)
    shown, found = table(page), records(made, protocol)
    assert len(shown["rows"]) == 8 and set(tasks.EMBEDDED) < set(shown["head"])
    for row in shown["rows"]:
        values = dict(zip(shown["head"], row, strict=True))
        own = [found[values["model"], task][1]["metrics"][metric] for task in tasks.EMBEDDED]
        assert [values[task] for task in tasks.EMBEDDED] == [f"{100 * v:.1f}" for v in own]
        assert values["mean"] == f"{100 * np.mean(own):.1f}"


def test_official_table(open_page):
    page = open_page()
    show(page, "Published: VTAB (2019), 1,000 examples")
    shown = table(page)
    assert len(shown["rows"]) == 16 and len(shown["head"]) == 1 + 1 + 19 + 3 + 1
    first = dict(zip(shown["head"], shown["rows"][0], strict=True))
    # From the file that is published: 67.97 on average, 73.57, 83.12 and 55.48 in the groups.
    assert first["model"] == "Sup-Rotation-100%" and first["mean"] == "68.0" and first["caltech101"] == "91.7"
    assert [first[g] for g in ("Natural", "Specialized", "Structured")] == ["73.6", "83.1", "55.5"]
    # Everything here is published, so no row says so; and the interval of the lead holds no lead.
    assert "(published)" not in page.locator("#shown").inner_text()
    assert page.locator("#lead").inner_text() == "No clear winner: Sup-Rotation-100% and Sup-Exemplar-100%"
    spans = page.locator(".heat thead .spans th")
    assert spans.all_inner_texts() == ["means", "Natural", "Specialized", "Structured"]
    assert [int(n) for n in spans.evaluate_all("all => all.map((e) => e.colSpan)")] == [5, 7, 4, 8]
    show(page, "Fine-tuning")
    assert len(table(page)["rows"]) == 8


def test_a_cell_tells_where_it_comes_from(open_page, made):
    page = open_page()
    shown = table(page)
    model, task = shown["rows"][2][0], shown["head"][3]
    path, record = records(made)[model, task]
    page.locator(".heat tbody tr").nth(2).locator("td").nth(2).hover()
    tip = page.locator("#tip").inner_text()
    accuracy, n = record["metrics"]["accuracy"], record["n_examples"]
    low, high = resampling.wilson(accuracy, n)
    assert tip.splitlines()[:2] == [f"{100 * accuracy:.1f} %", f"{model}, {task}"]
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" in tip and f"{n} examples" in tip
    assert str(path.relative_to(made.workdir)) in tip and "resize" not in tip


def test_sort_by_click(open_page):
    page = open_page()
    task = tasks.EMBEDDED[1]
    button = page.locator(".heat thead button", has_text=task)
    button.click()
    column = table(page)["head"].index(task)
    values = [float(r[column]) for r in table(page)["rows"]]
    assert values == sorted(values, reverse=True)
    header = page.locator(".heat thead th").nth(column)
    assert header.get_attribute("aria-sort") == "descending"
    button.click()
    assert [float(r[column]) for r in table(page)["rows"]] == sorted(values)
    assert header.get_attribute("aria-sort") == "ascending"
    assert page.locator("[aria-sort]").count() == 1
    button.click()  # as it was
    assert page.locator(".heat [aria-sort]").inner_text().startswith("mean")
    means = [float(r[1]) for r in table(page)["rows"]]
    assert means == sorted(means, reverse=True)
    page.locator(".heat thead button", has_text="model").click()
    names = [r[0] for r in table(page)["rows"]]
    assert names == sorted(names)


def test_sort_other_tables(open_page):
    page = open_page()
    page.locator("#strength details summary").click()
    epp = page.locator("#strength details table")
    epp.locator("thead button", has_text="standard error").click()
    values = [float(v) for v in epp.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert values == sorted(values, reverse=True)


def test_filter_by_click(open_page):
    page = open_page()
    page.locator("#ranking select[name=method]").select_option("supervised")
    names = [r[0] for r in table(page)["rows"]]
    assert names and set(names) == {
        report_data.spec(i) for i in range(8) if report_data.METHODS[i % 4] == "supervised"
    }
    assert f"{len(names)} of 8 models" in page.locator("#ranking output").inner_text()
    page.locator("#ranking select[name=family]").select_option("resnet")
    assert {r[0] for r in table(page)["rows"]} == {report_data.spec(0)}
    page.locator("#ranking select[name=method]").select_option("any")
    page.locator("#ranking select[name=family]").select_option("any")
    page.locator("#ranking select[name=size]").select_option("< 10 M")
    assert {r[0] for r in table(page)["rows"]} == {
        report_data.spec(i) for i in range(8) if report_data.source(i)["parameters"] < 10e6
    }


def test_by_keyboard_alone(open_page, made):
    page = open_page()
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"

    def tab_to(test):
        for _ in range(60):
            press("Tab")
            if page.evaluate(f"(() => {{ const e = document.activeElement; return {test}; }})()"):
                return
        raise AssertionError(f"Tab never reaches {test}")

    tab_to("e.name === 'name'")
    page.keyboard.type("vit")
    assert {r[0] for r in table(page)["rows"]} == {report_data.spec(i) for i in (1, 4, 7)}
    tab_to("e.matches('.heat thead button')")  # one stop for all headings
    press("ArrowRight")
    press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent.trim()") == tasks.EMBEDDED[0]
    press("Enter")
    shown = table(page)
    column = shown["head"].index(tasks.EMBEDDED[0])
    values = [float(r[column]) for r in shown["rows"]]
    assert values == sorted(values, reverse=True)
    press("Space")
    assert [float(r[column]) for r in table(page)["rows"]] == sorted(values)
    tab_to("e.tagName === 'TD'")
    for key in ("ArrowRight", "ArrowDown", "End", "Home"):
        press(key)
    shown = table(page)
    row, col = page.evaluate(
        "[document.activeElement.parentElement.dataset.label, document.activeElement.cellIndex]"
    )
    assert row in [r[0] for r in shown["rows"]] and col == 1
    press("ArrowRight")
    tip = page.locator("#tip")
    path, record = records(made)[row, shown["head"][2]]
    assert (
        f"{100 * record['metrics']['accuracy']:.1f} %" in tip.inner_text() and path.name in tip.inner_text()
    )
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    press("Escape")
    assert tip.is_hidden()


def test_charts_are_drawn_and_follow_the_theme(open_page):
    page = open_page(scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    for plot in page.locator("main .plot").all():
        plot.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('main .plot')].every((p) => p.querySelector('.main-svg'))"
    )
    n = page.locator("main .plot").count()
    assert n == 7  # ranking, strength, wins, speed, size, proxies, one proxy
    assert page.locator("main .plot[role=img][aria-label]").count() == n
    before = page.locator("[data-plot='finetune/epp'] .scatterlayer path.point").first.evaluate(
        "e => getComputedStyle(e).fill"
    )
    page.locator("#theme").click()
    page.wait_for_function("document.documentElement.dataset.theme === 'light'")
    after = page.locator("[data-plot='finetune/epp'] .scatterlayer path.point").first.evaluate(
        "e => getComputedStyle(e).fill"
    )
    assert before == "rgb(116, 174, 245)" and after == "rgb(31, 95, 191)"


def test_one_proxy_on_one_task(open_page):
    page = open_page()
    page.locator("#scatter").scroll_into_view_if_needed()
    page.wait_for_selector("#scatter .main-svg")
    form = page.locator("#pair")
    form.locator("select[name=proxy]").select_option(label="LEEP")
    form.locator("select[name=task]").select_option(label=tasks.EMBEDDED[2])
    assert "4 models, weighted Kendall" in form.locator("output").inner_text()
    assert page.evaluate("document.querySelector('#scatter').data[0].x.length") == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(open_page, scheme):
    page = open_page(PHONE, scheme)
    for plot in page.locator("main .plot").all():
        plot.scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.locator(".heat td").first.click()
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(open_page, scheme):
    """WCAG AA: 4.5 to 1, on every shade of the heat map and in everything else that is text."""
    page = open_page(scheme=scheme)
    assert chromium.low_contrast(page) == []


def test_prints(open_page):
    """Every chart is drawn anew for the paper: no point and no name beyond its edge."""
    page = open_page({"width": 688, "height": 975}, scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".filters").first.is_hidden() and page.locator("details:not([open])").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    plots = page.evaluate(
        """() => [...document.querySelectorAll("main .plot")].map((plot) => {
          const outer = plot.getBoundingClientRect();
          const marks = [...plot.querySelectorAll(".point path, path.point, .ytick text, .annotation-text-g")];
          return { width: outer.width, marks: marks.length, beyond: marks.map((e) => e.getBoundingClientRect())
            .filter((box) => box.left < outer.left - 1 || box.right > outer.right + 1
              || box.top < outer.top - 1 || box.bottom > outer.bottom + 1).length,
            height: plot.closest("figure").getBoundingClientRect().height,
            whole: getComputedStyle(plot.closest("figure")).breakInside }; })"""
    )
    assert len(plots) == 7 and all(0 < plot["width"] <= 688 and plot["marks"] for plot in plots)
    # No page ends within a chart.
    assert all(plot["height"] < 975 and plot["whole"] == "avoid" for plot in plots)
    assert [plot["beyond"] for plot in plots] == [0] * 7
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0
    assert len(page.pdf()) > 100_000


def test_a_long_table_is_printed_in_parts_with_their_own_headings(open_page):
    """Chromium loses the vertical headings of a table that goes on over a page's end."""
    page = open_page({"width": 688, "height": 975})
    show(page, "Published: VTAB (2019), 1,000 examples")
    page.evaluate(
        """() => { const body = document.querySelector(".heat tbody"), row = body.rows[0];
        for (let k = 0; k < 80; k++) body.append(row.cloneNode(true)); }"""
    )
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    parts = page.evaluate(
        """() => [...document.querySelectorAll("main .heat")].map((table) => ({
        rows: [...table.tBodies[0].rows].filter((r) => r.getClientRects().length).length,
        heads: [...table.tHead.rows].at(-1).cells.length, height: table.getBoundingClientRect().height,
        foot: !!table.tFoot?.getClientRects().length })) """
    )
    assert [part["rows"] for part in parts] == [34, 34, 28] and {part["heads"] for part in parts} == {25}
    assert [part["foot"] for part in parts] == [False, False, True]
    on_a_page = (297 - 28) / 25.4 * 96
    assert all(part["height"] < on_a_page for part in parts)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.locator("main .heat").count() == 1 and len(table(page)["rows"]) == 96


def test_a_mean_has_its_interval_beside_it(open_page, made):
    page = open_page()
    cell = page.locator(".heat tbody tr").first.locator("td").first
    half = cell.evaluate("e => getComputedStyle(e, '::after').content.replaceAll('\"', '')")
    cell.hover()
    low, high = re.search(r"interval ([\d.]+) to ([\d.]+) %", page.locator("#tip").inner_text()).groups()
    assert half.startswith("±") and abs(float(half[1:]) - (float(high) - float(low)) / 2) < 0.11
    assert page.locator(".heat tfoot tr").last.inner_text().startswith("(± 95 %)")


def test_names_keep_off_the_front(open_page):
    """No name of a model lies on the line of the chart of accuracy against speed."""
    page = open_page()
    chart = page.locator("[data-plot='finetune/speed']")
    chart.scroll_into_view_if_needed()
    chart.locator(".main-svg").first.wait_for()
    crossed = chart.evaluate(
        """plot => { const line = plot.querySelector(".scatterlayer .js-line"), m = line.getScreenCTM();
        const n = line.getTotalLength(), dots = [...Array(200).keys()].map((k) => {
          const p = line.getPointAtLength((k / 199) * n).matrixTransform(m); return [p.x, p.y]; });
        return [...plot.querySelectorAll(".annotation-text-g text")].map((e) => e.getBoundingClientRect())
          .filter((b) => dots.some(([x, y]) => x > b.left + 1 && x < b.right - 1 && y > b.top + 2 && y < b.bottom - 2))
          .length; }"""
    )
    assert crossed == 0 and chart.locator(".annotation-text-g text").count() > 0


def test_the_address_says_what_is_shown(open_page, made):
    page = open_page()
    show(page, "Nearest neighbours (cosine)")
    page.locator(".heat thead button", has_text=tasks.EMBEDDED[1]).click()
    page.locator("#ranking input[name=name]").fill("vit")
    page.locator("#theme").click()
    shown = table(page)
    assert len(shown["rows"]) == 3
    page.reload()
    assert table(page) == shown and page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert (
        page.get_by_label("Results of").evaluate("e => e.selectedOptions[0].text")
        == "Nearest neighbours (cosine)"
    )
    page.get_by_role("link", name="Methods").click()
    assert "board=knn-accuracy_cosine" in page.url and "theme=dark" in page.url


def test_no_model_matches(open_page):
    page = open_page()
    page.locator("#ranking input[name=name]").fill("no such")
    assert table(page)["rows"] == [] and page.locator("#ranking .empty").is_visible()
    page.get_by_role("button", name="Clear the filter").click()
    assert len(table(page)["rows"]) == 8 and page.locator("#ranking .empty").is_hidden()


def test_download_of_a_table(open_page):
    page = open_page()
    page.locator("#ranking input[name=name]").fill("vit")
    with page.expect_download() as download:
        page.locator("#ranking [data-csv]").click()
    assert download.value.suggested_filename == "finetune-accuracy.csv"
    lines = list(csv.reader(download.value.path().read_text().splitlines()))
    shown = table(page)
    assert lines[:4] == [shown["head"], *shown["rows"]] and lines[4][0] == "(chance)"


@pytest.fixture(scope="module")
def waiting(made, tmp_path_factory):
    """The same page as if its tables were long: all but their first two rows wait as text."""
    workdir = shutil.copytree(made.workdir, tmp_path_factory.mktemp("waiting") / made.workdir.name)
    config = report_config.get_config()
    config.published, config.resamples, config.figures = "vtab", 200, False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "_LONG", 3)
        patch.setattr(templates, "_FIRST", 2)
        assert report.run(config, workdir) == 0
    return workdir / "report" / "report.html"


def sheet(page, name):
    return page.locator(f"{name} table.sheet").first.locator("tbody tr").all_inner_texts()


def test_rows_that_wait_are_there_when_they_are_asked_for(open_page, waiting):
    plain, task = open_page(), tasks.EMBEDDED[1]
    whole = table(plain)

    page = open_page(path=waiting)
    assert table(page)["rows"] == whole["rows"][:2]
    assert page.locator("#ranking output").inner_text() == "8 of 8 models, sorted by mean, descending"
    page.locator("#ranking .rest button", has_text="Show all 8 models").click()
    assert table(page) == whole and not page.locator("#ranking .rest").is_visible()
    page.locator(".heat tbody td").last.hover()
    assert page.locator("#tip").inner_text().splitlines()[1].startswith(whole["rows"][-1][0])

    for act in (
        lambda p: p.locator(".heat thead button", has_text=task).click(),
        lambda p: p.locator("#ranking input[name=name]").fill("vit"),
    ):
        plain, page = open_page(), open_page(path=waiting)
        act(plain)
        act(page)
        assert table(page) == table(plain)
        assert page.locator("#ranking output").inner_text() == plain.locator("#ranking output").inner_text()

    page = open_page(path=waiting)
    with page.expect_download() as download:
        page.locator("#ranking [data-csv]").click()
    lines = list(csv.reader(download.value.path().read_text().splitlines()))
    assert lines[:9] == [whole["head"], *whole["rows"]]


def test_other_boards_and_tables_wait_too(open_page, waiting):
    plain, page = open_page(), open_page(path=waiting)
    for each in (plain, page):
        show(each, "Published: VTAB (2019), 1,000 examples")
    assert table(page)["rows"] == table(plain)["rows"][:2]
    page.locator("#ranking .rest button").click()
    assert table(page) == table(plain)

    wanted = sheet(plain, "#strength")
    assert sheet(page, "#strength") == wanted[:2]
    page.locator("#strength .rest button", has_text="Show all 16 rows").first.click()
    assert sheet(page, "#strength") == wanted
    assert "Show all 16 rows" not in page.locator("#strength > .rest").all_inner_texts()[:1]

    page = open_page(path=waiting)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("main script.later").count() == 1  # of the models by tasks


def test_columns_beyond_the_edge_are_announced(open_page):
    page = open_page(PHONE)
    show(page, "Published: VTAB (2019), 1,000 examples")
    box = page.locator(".heat-scroll")
    assert "more-right" in box.evaluate("e => e.parentElement.className")
    box.evaluate("e => { e.scrollLeft = e.scrollWidth; }")
    page.wait_for_function("!document.querySelector('.heat-scroll').parentElement.matches('.more-right')")
    assert "more-left" in box.evaluate("e => e.parentElement.className")
    # On a phone a row of a sheet is a card: nothing beyond the edge.
    sheets = page.locator("#shown .sheet:visible")
    beyond = sheets.evaluate_all("all => all.map((e) => e.scrollWidth - e.parentElement.clientWidth)")
    assert beyond and max(beyond) <= 0


def test_headings_landmarks_and_labels(open_page):
    page = open_page()
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("main button, main select, main input, main table, main [role=region]")]
        .filter((e) => !(e.textContent.trim() && e.tagName === "BUTTON") && !e.labels?.length && !e.caption
                && !e.getAttribute("aria-label")).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_markup_in_a_message_is_text(open_page):
    page = open_page()
    assert "<b>no</b> operator" in page.locator("#failures").inner_text()


def test_data_of_the_page_is_json(made):
    text = made.path.read_text(encoding="utf-8")
    data, cells = (
        json.loads(text.partition(f'id="{name}">')[2].partition("</script>")[0])
        for name in ("data", "cells-finetune")
    )
    assert "finetune/epp" in data["charts"] and len(cells["values"]) == 8
    assert "http://" not in text.partition("<script>")[0].replace("http://www.w3.org", "")
