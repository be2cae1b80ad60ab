"""docs/select.md says of real pictures what the committed selection says."""

import json
import re

import conftest


def short(model):
    name = re.sub(r".*[:/]", "", model).removesuffix(".safetensors")
    return re.sub(r"tf_efficientnet_(\w+)@random", r"\1, random weights", name)


def test_the_page_has_the_committed_selection():
    found = json.loads((conftest.ROOT / "benchmarks" / "results" / "real_selection.json").read_text())
    page = (conftest.ROOT / "docs" / "select.md").read_text(encoding="utf-8")
    section = page[page.index("## On real pictures") : page.index("## What is written")]
    rows = {
        cells[0]: cells[1:7]
        for line in re.findall(r"^\| (.+) \|$", section, re.M)
        if (cells := line.split(" | "))[0] != "model"
    }
    scores = {}
    for stage in [*found["stages"], found["audit"]["stage"]]:
        for row in stage["models"]:
            name = short(row["model"])
            values = [f"{100 * row['scores'][task]:.1f}" for task in stage["tasks"]]
            scores.setdefault(name, {})[stage["protocol"]] = values
    for name, own in scores.items():
        wanted = [v for p in ("knn", "linear", "finetune") for v in own.get(p, ["", ""])]
        assert [cell.strip() for cell in rows[name]] == wanted, name
    assert set(scores) == set(rows)
    first, second = found["ranking"][:2]
    low, high = second["behind_interval"]
    said = f"{100 * second['behind']:.1f} points (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    assert said in " ".join(section.split()) and found["winner"] is None
    assert [short(m) for m in found["contenders"]] == ["lite2", "lite0", "lite1"]
    assert first["model"] == found["leader"] and found["chance_missed"]["interval"] == [0, 0.5]
