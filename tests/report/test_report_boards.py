"""What the report puts on one board and what it keeps apart: settings, examples, versions, weights, published rows."""

import json

import conftest
import numpy as np
import pytest
import report_data
from report_data import finetuned, gathered, make, rows

from vtabjax import results, tasks
from vtabjax.report import analysis, boards, gather, prose, proxies, published
from vtabjax.results import Cell

TASKS = tasks.EMBEDDED


def test_other_settings_have_their_own_board(tmp_path):
    report_data.sweep(tmp_path, 4, TASKS, ("finetune",))
    finetuned(tmp_path, 0, "digits", 0.1, changes={"resize": "bicubic"})
    text = make(tmp_path)
    assert "Fine-tuning was run in 2 ways (different resize)" in text
    assert "Fine-tuning · resize bicubic" in text and "Fine-tuning · resize vtab" in text
    second, first = (
        {r["model"]: r["digits"] for r in rows(tmp_path, f"finetune{n}-accuracy")} for n in ("-2", "")
    )
    assert [second.pop(level) for level in ("(chance)", "(majority)")] == ["0.1", str(102 / 797)]
    assert list(second.values()) == ["0.1"]
    first.pop("(chance)")
    assert "0.1" not in first.values()


def test_other_examples_have_their_own_board(tmp_path):
    report_data.sweep(tmp_path, 4, TASKS, ("finetune",))
    finetuned(tmp_path, 9, "digits", data={"train800": "new", "test": "new"})
    text = make(tmp_path)
    assert "Results on digits were computed on different examples" in text
    assert [b.title for b in gathered(tmp_path).boards] == [
        "Fine-tuning · examples not set",
        "Fine-tuning · examples data 2",
    ]


def test_other_input_size_is_no_other_data(tmp_path):
    """With each model's own size, examples as seen differ by right."""
    for i in range(3):
        size = [3, 64 + i, 64 + i]
        finetuned(
            tmp_path,
            i,
            "digits",
            changes={"image_size": 0},
            input={"input_size": size},
            data={"test": f"{i}"},
        )
    found = gathered(tmp_path)
    assert len(found.boards) == 1 and found.notices == []


def test_versions(tmp_path, monkeypatch):
    finetuned(tmp_path, 0, "digits")
    others = {**results.versions(), "vtabjax": "9", "jax": "99"}
    monkeypatch.setattr(results, "versions", lambda: others)
    finetuned(tmp_path, 1, "digits")
    found = gathered(tmp_path)
    assert [b.title.partition(" · ")[2] for b in found.boards][1] == "vtabjax version 9"
    assert any("several versions of jax" in n and "shown together" in n for n in found.notices)


def test_changed_weights_are_another_model(tmp_path):
    finetuned(tmp_path, 0, "digits", weight_hash="a" * 16)
    finetuned(tmp_path, 0, "sprites_location", weight_hash="b" * 16)
    found = gathered(tmp_path)
    assert [m.label for m in found.boards[0].models] == [
        f"{report_data.spec(0)} [weights {c * 8}]" for c in "ab"
    ]
    assert "changed between runs" in found.notices[0]


def test_results_without_a_source_still_work(tmp_path):
    """As older versions wrote them: what the converted model says, or what its name says."""
    from vtabjax import integrity, model

    for spec in ("timm/resnet50.a1_in1k", "timm/tf_efficientnetv2_s@random"):
        cell = Cell("knn", spec, "digits", {"k": 1})
        results.save(
            cell,
            tmp_path,
            metrics={"accuracy": 0.5},
            correct=None,
            provenance={"weight_hash": spec},
            seconds={},
        )
    parts = conftest.tiny_parts()
    parts.info.update(method="supervised", family="resnet", parameters=25)
    path = model.save(tmp_path / "models" / "x", *parts)
    info = json.loads((path / "model.json").read_text()) | {"weight_hash": "timm/resnet50.a1_in1k"}
    info["artefact_hash"] = integrity.artefact_hash((path / "graph.json").read_bytes(), info)
    (path / "model.json").write_text(json.dumps(info))
    one, two = gathered(tmp_path).boards[0].models
    assert (one.method, one.family, one.parameters) == ("supervised", "resnet", 25)
    assert (two.method, two.family, two.parameters) == ("random weights", "efficientnetv2", None)


@pytest.mark.parametrize(
    ("name", "family"),
    [("timm/resnet50.a1_in1k", "resnet"), ("vit_small_patch16_224", "vit"), ("wide_resnet50_2", "resnet"),
     ("timm/test_resnet@random", "resnet"), ("mobilenetv3_small_100", "mobilenetv3")],
)  # fmt: skip
def test_family_by_name(name, family):
    assert boards.family(name) == family


# Published rows.


def test_published_beside_ours(tmp_path):
    for i in range(3):
        for task in tasks.VTAB[:4]:
            finetuned(tmp_path, i, task, 0.5 + 0.1 * i)
    found = gathered(tmp_path, [published.read("vtab")])
    titles = [b.title for b in found.boards]
    assert titles == [
        "Fine-tuning",
        "Fine-tuning, beside published: VTAB (2019), 1,000 examples",
        "Published: VTAB (2019), 1,000 examples",
        "Published: VTAB (2019), full training sets",
    ]
    own, beside = found.boards[:2]
    assert not any(m.published for m in own.models)
    assert sum(m.published for m in beside.models) == 16 and list(beside.tasks) == list(tasks.VTAB[:4])
    assert beside.values[3:].shape == (16, 4) and not np.isnan(beside.values).any()
    # Nothing of theirs is in our own board, and proxies are compared with ours alone.
    assert (
        len(own.models) == 3
        and proxies.compare_proxies(found, analysis.Options(resamples=100)).finetuned is None
    )


def test_what_is_trained_is_in_the_title_and_only_whole_models_are_beside_published_ones(tmp_path):
    for i in range(3):
        for task in tasks.VTAB[:4]:
            finetuned(tmp_path, i, task, 0.5 + 0.1 * i, changes={"scope": "lora"})
            finetuned(tmp_path, i, task, 0.4 + 0.1 * i, changes={"scope": "bias"})
    found = gathered(tmp_path, [published.read("vtab")])
    titles = {b.title for b in found.boards}
    assert {"Fine-tuning (LoRA)", "Fine-tuning (biases only)"} <= titles
    assert not any(b.beside_published for b in found.boards)
    said = [m["what"] for m in prose.methods(found)]
    assert any(what.startswith("Updates of low rank to the weights") for what in said)
    assert any(what.startswith("All biases and a linear layer on the features are trained") for what in said)


def test_epp_of_the_official_table():
    board = next(
        b
        for b in gather.gather(
            conftest.ROOT / "no such", conftest.ROOT / "no", [published.read("vtab")]
        ).boards
    )
    a = analysis.analyse(board, analysis.Options(resamples=200))
    s = a.strengths
    assert s.fit.finite and s.within is None and s.fit.n_clusters == 19
    assert [board.models[i].label for i in a.order[:2]] == ["Sup-Rotation-100%", "Sup-Exemplar-100%"]
    # Clustered errors, not the naive ones that would be half as large.
    assert 0.3 < np.median(s.fit.standard_errors) < 0.55
    assert s.best.sum() == pytest.approx(1) and (s.rank_low <= s.rank_high).all()
    assert a.differences is None and "published tables" in a.no_differences
