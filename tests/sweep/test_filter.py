"""config.filter: which conditions there are, which models they leave, and that all of it is decided at the door."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtabjax import results, specs
from vtabjax.options import UsageError
from vtabjax.runtime import files
from vtabjax.specs import filters
from vtabjax.sweep import filtering, plan, runner

KNOWN = {
    "license": "apache-2.0",
    "method": "self-supervised",
    "pretraining_data": "ImageNet-21k, ImageNet-1k",
    "source": "timm",
    "family": "vision_transformer",
    "parameters": 22_050_664,
    "gflops": 9.2,
    "input_size": [3, 224, 224],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("licence=apache-2.0", True),
        ("license != APACHE-2.0", False),
        ("licence!=non-commercial", True),
        ("licence=non-commercial", False),
        ("licence=cc-*", False),
        ("method=self-supervised", True),
        ("method!=self-*", False),
        ("data=imagenet-1k", True),  # one of them
        ("data!=ImageNet-1k", False),
        ("data=ImageNet", False),
        ("data=imagenet*", True),
        ("source==timm", True),
        ("family=vision*", True),
        ("parameters<22050664", False),
        ("parameters<=22050664", True),
        ("parameters<22.1M", True),
        ("parameters>22050K", True),
        ("parameters>=0.1g", False),
        ("parameters!=1", True),
        ("gflops<5", False),
        ("gflops>9", True),
        ("input_size=224", True),
        ("input_size=384", False),
    ],
)
def test_a_condition(text, expected):
    (condition,) = filters.parse(text)
    assert condition.holds(KNOWN) is expected
    lacking = {k: None for k in KNOWN}
    assert condition.holds(lacking) is None and condition.holds({}) is None


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("cc-by-nc-4.0", True),
        ("CC-BY-NC-SA-4.0", True),
        ("fair-noncommercial-research-license", True),
        ("apple-amlr", True),
        ("seer-license", True),
        ("mit", False),
        ("bsd-3-clause", False),
        ("cc-by-4.0", False),
        ("dinov3-license", False),
        ("other", None),
        ("unknown", None),
        ("a-licence-of-its-own", None),
    ],
)
def test_what_a_licence_rules_out(licence, expected):
    assert filters.is_non_commercial(licence) is expected
    (condition,) = filters.parse("licence!=non-commercial")
    assert condition.holds({"license": licence}) is (None if expected is None else not expected)


def test_random_weights_are_nobodys():
    known = {"method": "none", "license": None, "pretraining_data": None}
    for text in ("licence!=non-commercial", "data=none", "licence=none"):
        assert filters.parse(text)[0].holds(known) is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lizence=mit", "there is no field 'lizence'; did you mean licence?; fields: licence, method"),
        ("parameters<fifty", "'fifty' is not a number"),
        ("parameters<-5", "'-5' is not a number"),
        ("parameters<5T", "'5T' is not a number"),
        ("gflops<1e999", "is not a number"),
        ("method=selfsup", "there is no method 'selfsup'; did you mean self-supervised"),
        ("method<3", "method is a text"),
        ("licence!=noncommercial", "write licence!=non-commercial"),
        ("parameters", "'parameters' is not field=value"),
        ("parameters<", "is not field=value"),
        ("5<gflops<9", "is not field=value"),
        ("gflops=<5", "is not field=value"),
    ],
)
def test_a_filter_that_cannot_be_read(config, text, said):
    config.filter = text
    with pytest.raises(UsageError) as error:
        plan.read(config)
    assert str(error.value).startswith(f"config.filter={text!r}: ") and said in str(error.value)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        conditions = filters.parse(text)
    except filters.FilterError:
        return
    assert len(conditions) == sum(bool(part.strip()) for part in text.split(","))


def test_an_unknown_value_is_told_and_a_known_failure_goes_first():
    known = {
        "a": {"license": None, "parameters": 1},
        "b": {"license": "mit", "parameters": 9},
        "c": {"license": None, "parameters": 9},
        "d": {"license": "mit", "parameters": 1},
        "e": {"license": "cc-by-nc-4.0", "parameters": None},
    }
    outcome = filters.choose(filters.parse("licence!=non-commercial, parameters<5"), known)
    assert outcome.passed == ["d"]
    assert outcome.failed == {"parameters<5": ["b", "c"], "licence!=non-commercial": ["e"]}
    assert outcome.unknown == {"licence": ["a"]}
    assert filters.told(outcome) == [
        "1 of 5 models pass the filter",
        "2 models left out by parameters<5: b, c",
        "1 model left out by licence!=non-commercial: e",
        "1 model left out because its licence is not known: a",
    ]


def models_of(config, workdir):
    return [cell.model for cell in plan.all_cells(plan.read(config), workdir)]


def test_a_sweep_has_the_models_that_pass(config, fake_converters, tmp_path, capsys):
    config.models = "tiny/m*,tiny/nc1,tiny/odd2,baseline/pixels"
    config.filter = "licence!=non-commercial, parameters<2M, gflops<0.15"
    assert models_of(config, tmp_path) == ["tiny/m0", "tiny/m1", "baseline/pixels"]
    said = capsys.readouterr().err
    assert "config.filter: 3 of 6 models pass the filter" in said
    assert "1 model left out by parameters<2M: tiny/m2" in said
    assert "1 model left out by licence!=non-commercial: tiny/nc1" in said
    assert "1 model left out because its licence is not known: tiny/odd2" in said
    asked = [call[1:] for call in fake_converters.calls()]
    # What takes long is asked of those only that are left: the pattern, all, without the licences, without the large.
    assert asked[1:] == [
        ["tiny/m0", "tiny/m1", "tiny/m2", "tiny/nc1", "tiny/odd2"],
        ["tiny/m0", "tiny/m1", "tiny/m2"],
        ["tiny/m0", "tiny/m1"],
    ]
    fake_converters.forget()
    assert models_of(config, tmp_path) == ["tiny/m0", "tiny/m1", "baseline/pixels"]
    assert fake_converters.calls() == []  # remembered, as what the pattern stands for


def test_only_what_a_filter_asks_about_is_counted(config, fake_converters, tmp_path):
    config.models, config.filter = "tiny/m1,tiny/m2", "method=supervised"
    assert models_of(config, tmp_path) == ["tiny/m1", "tiny/m2"]
    text = (tmp_path / "cache" / "models.json").read_text()
    (facts, _) = files.unseal(text)["models"].values()
    assert "parameters" not in facts and "gflops" not in facts and facts["method"] == "supervised"


def test_no_model_is_left(config, fake_converters, tmp_path):
    config.models, config.filter = "tiny/nc1,tiny/odd1", "licence!=non-commercial"
    said = "leaves no model: 0 of 2 models pass.*tiny/nc1.*licence is not known: tiny/odd1"
    with pytest.raises(UsageError, match=said):
        models_of(config, tmp_path)


def test_a_model_that_does_not_exist(config, fake_converters, tmp_path):
    config.models, config.filter = "tiny/m1,tiny/unknown", "parameters<5M"
    with pytest.raises(UsageError, match="config.models: model 'tiny/unknown' does not exist; near: tiny/a"):
        models_of(config, tmp_path)


def test_what_is_known_of_files_is_not_remembered():
    assert filtering._lasts("timm/resnet18.a1_in1k 64") and filtering._lasts("hf/timm/resnet18 0")
    assert not filtering._lasts("hf//models/mine 0") and not filtering._lasts("python/lab:net 64")


def test_a_run_and_a_dry_run_see_the_same_cells(config, fake_converters, tmp_path, capsys):
    config.models = "tiny/m1,tiny/nc1,embedded/sprites_resnet,baseline/pixels"
    config.filter = "gflops<0.15, licence!=cc*"
    config.dry_run = True
    assert runner.run(config, tmp_path) == 0
    assert "3 models x 1 task = 3 cells" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    config.dry_run = False
    assert runner.run(config, tmp_path) == 0
    frame = results.collect(tmp_path).set_index("model")
    assert set(frame.index) == {"tiny/m1", "embedded/sprites_resnet", "baseline/pixels"}
    assert (
        frame.loc["baseline/pixels", "gflops"] == 0
        and frame.loc["baseline/pixels", "license"] == "apache-2.0"
    )
    # An artefact without it (the copied one has none): counted on its graph, a linear layer from 48 to 24.
    assert frame.loc["tiny/m1", "gflops"] == 2 * 48 * 24 / 1e9
    assert frame.loc["embedded/sprites_resnet", "parameters"] > 1e5
    assert runner.run(config, tmp_path) == 0
    assert "3 done, 0 to do" in capsys.readouterr().err


def test_the_example_is_one():
    assert [c.field for c in filters.parse(filters.EXAMPLE)] == ["licence", "parameters", "gflops", "method"]
    assert issubclass(filters.FilterError, ValueError) and not issubclass(
        filters.FilterError, specs.SpecError
    )
