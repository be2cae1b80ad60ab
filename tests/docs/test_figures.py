"""No page contradicts a result file: figures that are quoted, and not generated, are those of the file."""

import ast
import html
import json
import re

import conftest
import pytest

from vtabjax import bundled, results, tasks

ROOT = conftest.ROOT
COLUMNS = [*tasks.EMBEDDED]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def stored(name):
    return json.loads(text(f"benchmarks/results/{name}.json"))


def shown(fraction):
    return f"{100 * fraction:.1f}"


@pytest.fixture(scope="module")
def neighbours():
    """Model -> accuracies of nearest neighbours on the embedded tasks, their mean, and the mean by cosine, as shown."""
    found = {}
    for record in results.read_pack(bundled.PACK).records:
        if record["protocol"] == "knn":
            found.setdefault(record["model"], {})[record["task"]] = record["metrics"]
    rows = {}
    for model, metrics in found.items():
        plain, cosine = (
            [metrics[task][name] for task in COLUMNS] for name in ("accuracy", "accuracy_cosine")
        )
        rows[model] = [shown(v) for v in [*plain, sum(plain) / len(plain), sum(cosine) / len(cosine)]]
    return rows


FIRST = ["baseline/pixels", "embedded/sprites_resnet", "timm/mobilenetv3_small_100@random", "timm/test_resnet@random",
         "timm/resnet18@random", "timm/vit_tiny_patch16_224@random"]  # fmt: skip


def test_table_of_the_first_command(neighbours):
    readme = re.findall(r"^\| (\w+/\S+) \|((?: [\d.]+ \|){5})$", text("README.md"), re.M)
    assert [model for model, _ in readme] == FIRST
    assert {model: re.findall(r"[\d.]+", row) for model, row in readme} == {m: neighbours[m] for m in FIRST}
    documented = ast.get_docstring(ast.parse(text("configs/knn.py")))
    for model in FIRST:
        assert re.search(rf"^ *{re.escape(model)} +{' +'.join(neighbours[model])}$", documented, re.M), model


def test_picture_of_the_terminal(neighbours):
    lines = html.unescape(re.sub(r"<[^>]+>", " ", text("docs/img/terminal.svg"))).replace(
        "\N{NO-BREAK SPACE}", " "
    )
    cells = re.findall(r"(\w+/\S+) +(\w+) +accuracy +([\d.]+) %", lines)
    assert len(cells) >= 9
    for model, task, accuracy in cells:
        assert accuracy == neighbours[model][COLUMNS.index(task)], (model, task)


def test_fine_tuning_on_the_embedded_tasks(neighbours):
    found = {
        (r["model"], r["task"]): shown(r["accuracy"])
        for r in stored("sprites_resnet")["results"]
        if r["protocol"] == "finetune"
    }
    rows = re.findall(r"^\| (\w+/\S+) \|((?: [\d.]+ \|){6})$", text("docs/finetune.md"), re.M)
    assert len(rows) == 3
    for model, row in rows:
        assert re.findall(r"[\d.]+", row) == neighbours[model][:3] + [found[model, task] for task in COLUMNS]


# What the pages say in words, and the numbers of the file it has to agree with.
def _images_per_second():
    medians = stored("images")["images_per_second"]
    ours = [v["median"] for name, v in medians.items() if "stream" in name or "cache built" in name]
    return f"{round(min(ours), -1):.0f} to {round(max(ours), -1):,.0f} images/s on two cores"


def _memory():
    record = stored("knn_memory")
    beyond, own = record["peak_beyond_features_bytes"] / 1e9, record["features_bytes"] / 1e9
    return f"{beyond:.1f} GB beyond the features' {own:.1f} GB"


QUOTED = {"docs/scale.md": _images_per_second, "docs/scores.md": _memory}


@pytest.mark.parametrize("page", QUOTED)
def test_figures_in_words(page):
    assert QUOTED[page]() in " ".join(text(page).split())


def test_files_that_pages_name_are_compared():
    """A page that names a result file is generated from it, or compared with it here or by the test of that page."""
    elsewhere = {"docs/benchmarks.md", "docs/select.md"}  # test_benchmarks.py, test_real_selection.py
    naming = {
        f"docs/{page.name}"
        for page in (ROOT / "docs").glob("*.md")
        if re.search(r"benchmarks/results/\w+\.json", page.read_text(encoding="utf-8"))
    }
    assert naming - elsewhere == {*QUOTED, "docs/finetune.md"}
    assert "benchmarks/results" not in text("README.md")
