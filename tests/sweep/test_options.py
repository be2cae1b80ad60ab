"""Every field of every config: what is out of its range is told, what is taken is in it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import common, data, finetune, knn, linear, prepare, report, transferability
from vtabjax import options
from vtabjax.data import images
from vtabjax.sweep import adapters, plan, runner

SWEEPS = {"knn": knn, "linear": linear, "transferability": transferability, "finetune": finetune}
OWN = {
    "knn": options.KnnOptions,
    "linear": options.LinearOptions,
    "transferability": options.TransferabilityOptions,
}
OTHERS = {
    "report": (report, options.ReportOptions),
    "prepare": (prepare, options.PrepareOptions),
    "data": (data, options.DataOptions),
}
HOSTILE = (
    -1, 0, 1, 2.5, -0.0, math.nan, math.inf, -math.inf, 1e20, 10**30, 1e-300, "", "x", "nan", "-1", "1,2,1e400",
    "a\nb", "\0", ",,", "0.1,inf", None, True, False, (), (1, 2), [], {}, b"x", object(),
)  # fmt: skip


def classes(name):
    """{section: the class of its fields} of a config; "" is the config itself."""
    if name in OTHERS:
        return [("", OTHERS[name][1])]
    own = [("finetune", options.FinetuneOptions)] if name == "finetune" else [("", OWN[name])]
    return [("", options.RunOptions), ("slurm", options.SlurmOptions), *own]


def config(name):
    module = OTHERS[name][0] if name in OTHERS else SWEEPS[name]
    return ConfigDict(module.get_config().to_dict(), type_safe=False)


def read(name, given):
    """What main.py does first."""
    return options.read(OTHERS[name][1], given) if name in OTHERS else plan.read(given)


FIELDS = [
    (name, section, field, rule)
    for name in [*SWEEPS, *OTHERS]
    for section, kind in classes(name)
    for field, (_, rule) in options.rules(kind).items()
]


def fits(rule, value):
    """Whether a value is what the rule's text promises: an oracle that knows nothing of `take`."""
    match rule:
        case options.Range(low, high, _, special, _):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return number and (low <= value <= high or value == special)
        case options.OneOf(names):
            return isinstance(value, str) and value in names
        case options.Switch():
            return value is True or value is False
        case options.Some(names):
            return isinstance(value, str) and 0 < len([v for v in value.split(",") if v.strip() in names])
        case options.Each(each):
            try:
                numbers = (
                    [float(v) for v in value.split(",") if v.strip()]
                    if isinstance(value, str)
                    else [math.nan]
                )
            except ValueError:
                return False
            return all(fits(each, n) for n in numbers)
        case options.Conditions():
            return isinstance(value, str) and not value.strip(",")
        case options.Text() | options.Pattern():
            return isinstance(value, str) and not any(ord(c) < 32 or ord(c) == 127 for c in value)


@pytest.mark.parametrize("name", [*SWEEPS, *OTHERS])
def test_every_field_has_a_rule(name):
    given = config(name)
    found = {f"{section}.{field}".lstrip(".") for n, section, field, _ in FIELDS if n == name}
    there = set()
    for field in given:
        inner = given[field]
        there |= {f"{field}.{n}" for n in inner} if isinstance(inner, ConfigDict) else {field}
    assert there - found <= {"protocol"} and found <= there


@pytest.mark.parametrize("suite", common.SUITES)
@pytest.mark.parametrize("name", SWEEPS)
def test_the_configs_themselves_are_fine(name, suite):
    if (name, suite) != ("finetune", "vtab_full"):  # which is refused, with a word
        plan.read(SWEEPS[name].get_config(suite))


@pytest.mark.parametrize(("name", "section", "field", "rule"), FIELDS)
def test_hostile_values(name, section, field, rule):
    for value in HOSTILE:
        given = config(name)
        holder = given[section] if section else given
        holder[field] = value
        value = holder[field]  # a ConfigDict may turn True into 1.0
        where = f"{section}.{field}" if section else field
        try:
            read(name, given)
        except options.UsageError as e:
            assert "config." in str(e) and len(str(e)) < 1000, where
            if not fits(rule, value) and (section, field) != ("", "protocol"):
                assert f"config.{where}" in str(e), (value, str(e))
        else:
            assert fits(rule, value), (where, value)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FIELDS), st.floats() | st.integers() | st.text(max_size=20) | st.booleans())
def test_any_value(chosen, value):
    name, section, field, rule = chosen
    given_config = config(name)
    holder = given_config[section] if section else given_config
    holder[field] = value
    value = holder[field]
    try:
        read(name, given_config)
    except options.UsageError:
        return
    assert fits(rule, value), (section, field, value)


@pytest.mark.parametrize("name", [*SWEEPS, *OTHERS])
def test_a_field_that_is_missing(name):
    for n, section, field, _ in FIELDS:
        if n != name or field == "protocol":
            continue
        given = config(name)
        del (given[section] if section else given)[field]
        with pytest.raises(options.UsageError, match=f"lacks .*{field}"):
            read(name, given)


def test_values_come_typed():
    asked = plan.read(finetune.get_config())
    assert asked.run.image_size == 64 and asked.run.convert_timeout == 30.0
    assert asked.slurm.minutes == 24 * 60 and asked.slurm.wait is False
    tuned = options.read(options.FinetuneOptions, finetune.get_config(), "finetune")
    assert tuned.learning_rates == (0.1, 0.01) and tuned.steps == (60, 240) and tuned.seeds == (0,)
    assert asked.settings["learning_rates"] == [0.1, 0.01]


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("linear", "c_count", 10**8, "config.c_count=100000000 is too large: it must be at most 1000"),
        ("linear", "c_max", math.inf, "config.c_max=inf is too large"),
        ("linear", "c_min", 1e9, "need 0 < c_min <= c_max"),
        ("knn", "convert_timeout", math.nan, "config.convert_timeout=nan: it must be 0.1 to 100000 minutes"),
        ("knn", "image_size", 3, "it must be 8 to 2048 pixels, or 0 for each model's own"),
        ("knn", "k", 1.5, "config.k=1.5: it must be a whole number, 1 to 100000"),
        ("knn", "k", True, "config.k=True: it must be a whole number"),
        ("knn", "models", "a\nb", "it must be a single line of text"),
        ("report", "resamples", 3, "config.resamples=3 is too small: it must be at least 100"),
        (
            "prepare",
            "file_format",
            "csv",
            "config.file_format='csv' is not known; choose array_record or tfrecord",
        ),
    ],
)
def test_messages(name, field, value, message):
    given = config(name)
    given[field] = value
    with pytest.raises(options.UsageError) as e:
        read(name, given)
    assert message in str(e.value)


def test_choices_are_those_of_the_code():
    from vtabjax.protocols import transferability as scores
    from vtabjax.protocols.finetune import settings as tuning

    assert (
        options.RESIZE == images.METHODS
        and options.SUITES == common.SUITES == tuple(prepare.SUITES)[::-1]
        or (set(options.SUITES) == set(common.SUITES) == set(prepare.SUITES))
    )
    fields = options.rules(options.FinetuneOptions)
    assert fields["sampling"][1].names == tuning.SAMPLING and fields["scope"][1].names == tuning.SCOPES
    assert set(options.DTYPES) <= set(tuning.DTYPES)
    assert all(callable(getattr(scores, name)) for name in options.SCORES)
    assert set(OWN) | {"finetune"} == set(adapters.PROTOCOLS)
    assert set(report.SUITES) == set(options.rules(options.ReportOptions)["suite"][1].names)
    assert set(data.SUITES) == set(options.rules(options.DataOptions)["suite"][1].names)
    assert options.rules(options.DataOptions)["resize"][1].names == images.METHODS


def test_k_and_splits_are_compared_with_the_task(config_of_knn, tmp_path):
    config_of_knn.k = 999
    asked = plan.read(config_of_knn)
    assert len(plan.all_cells(asked, tmp_path)) == 1
    config_of_knn.k = 1000
    with pytest.raises(options.UsageError, match="config.k=1000 is too large for digits: .* 999 others"):
        plan.all_cells(plan.read(config_of_knn), tmp_path)


def test_a_folder_that_is_too_small(tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "d" / name / "0.png")
    c = finetune.get_config()
    c.models, c.tasks = "baseline/pixels", f"folder:{tmp_path / 'd'}"
    with pytest.raises(
        options.UsageError,
        match="has 2 pictures .* the split val, which finetune uses, is empty",
    ):
        runner.run(c, tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.fixture
def config_of_knn():
    c = knn.get_config()
    c.models, c.tasks, c.image_size = "tiny/a", "digits", 16
    return c
