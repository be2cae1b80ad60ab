"""Which worker has which cells: every cell one, by cost, however many there are."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtabjax import results
from vtabjax.options import UsageError
from vtabjax.results import Cell
from vtabjax.sweep import costs, runner, shares


def test_costs():
    def taken(model, task, seconds, **settings):
        settings = {"image_size": 64, "dtype": "float32", "splits": ["train800"]} | settings
        return {"protocol": "knn", "model": model, "task": task, "settings": settings, "seconds": seconds}

    records = [
        taken("timm/a@random", "digits", {"convert": 100.0, "features": 8.0}),
        taken("timm/b@random", "digits", {"features": 16.0}),
        taken("timm/c@random", "digits", {"features": 32.0}),
        taken("baseline/pixels", "digits", {"features": 0.8}),
        taken("timm/a@random", "digits", {"features": 999.0}, image_size=224),
        taken("timm/a@random", "digits", {"knn": 999.0}) | {"protocol": "linear"},
    ]
    settings = {"image_size": 64, "dtype": "float32", "splits": ["train800", "val200"]}
    known = costs.Costs(records, "knn", settings)
    cell = {m: Cell("knn", m, "digits", settings) for m in ("timm/a@random", "timm/new@random", "tiny/x")}
    assert known.known == 4 and known.has("timm/a@random") and not known.has("tiny/x")
    assert known.seconds(cell["timm/a@random"]) == pytest.approx(10)  # 0.01 s each, 1,000 of them
    assert known.seconds(cell["timm/new@random"]) == pytest.approx(20)  # its source's median
    assert known.seconds(cell["tiny/x"]) == pytest.approx(15)  # that of all
    assert known.total(list(cell.values())) == pytest.approx(45)
    assert costs.Costs([], "knn", settings).total(list(cell.values())) is None
    assert costs.images("dtd", ["train800val200", "test"]) == 2880
    assert costs.images("folder:/no/such/folder", ["test"]) == 1000


def test_a_sweeps_short_name_is_that_of_its_cells_as_json():
    names = ("digits", 'folder:/a "b"ü')
    cells = [Cell("knn", f"timm/a{i}@random", task, {"k": i}) for i in range(2) for task in names]
    text = json.dumps([[cell.model, cell.task, cell.hash] for cell in cells])
    assert shares.digest(cells) == hashlib.sha256(text.encode()).hexdigest()[:10]
    assert shares.digest([]) == hashlib.sha256(b"[]").hexdigest()[:10]


def test_shares_make_the_whole(config, fake_converters, tmp_path):
    config.tasks = "digits,sprites_location"
    for i in range(3):
        assert runner.run(config, tmp_path, f"{i}/3") == 0
        assert len(results.collect(tmp_path)) == (1, 3, 4)[i]
    assert len(list(tmp_path.glob("sweeps/knn-*/shares-3.json"))) == 1


def split(everything, n, seconds=lambda cell: None):
    numbers = shares.assign(everything, n, seconds)
    assert len(numbers) == len(everything)
    return [[c for c, i in zip(everything, numbers, strict=True) if i == k] for k in range(n)]


@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 12))
def test_every_cell_has_one_worker(models, tasks, n):
    everything = [Cell("knn", f"tiny/{m}", f"t{t}", {"t": t}) for m in range(models) for t in range(tasks)]
    found = split(everything, n)
    assert sorted(map(str, everything)) == sorted(str(c) for share in found for c in share)
    sizes = [len(share) for share in found]
    if n <= models:  # whole models
        assert all(len({c.model for c in s}) * tasks == len(s) for s in found)
        assert max(sizes) - min(sizes) <= tasks
    else:
        assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=12), st.integers(1, 12))
def test_shares_are_balanced_by_cost(seconds, n):
    """Graham's bound for the longest first: at most 4/3 of the best; whose bounds are the mean and the largest."""
    everything = [Cell("knn", f"tiny/{m}", "t", {}) for m in range(len(seconds))]
    if n > len(seconds):
        n = len(seconds)
    found = split(everything, n, lambda cell: seconds[int(cell.model.removeprefix("tiny/"))])
    loads = [sum(seconds[int(c.model.removeprefix("tiny/"))] for c in share) for share in found]
    ordered = sorted(seconds, reverse=True)
    pair = ordered[n - 1] + ordered[n] if n < len(seconds) else 0  # two of the n + 1 largest share a worker
    assert max(loads) <= sum(seconds) / n + max(seconds) * (1 - 1 / n) + 1e-9
    assert max(loads) <= 4 / 3 * 2 * max(sum(seconds) / n, ordered[0], pair) + 1e-9
    known = lambda cell: 5.0 if cell.model == "tiny/0" else None  # noqa: E731
    assert sum(map(len, split(everything, n, known))) == len(everything)  # unknown: like the others


def test_the_first_worker_writes_down_the_shares(tmp_path):
    """Results that come meanwhile change what cells are taken to cost, not who does them."""
    everything = [Cell("knn", f"tiny/{m}", "t", {}) for m in range(6)]
    file = tmp_path / "shares.json"
    costs = iter([lambda cell: 1.0, lambda cell: 100.0 if cell.model == "tiny/0" else 1.0])
    found = [
        shares.share_of(everything, shares.Share(i, 2, "--cells"), file, lambda: next(costs))
        for i in range(2)
    ]
    assert sorted(found[0] + found[1]) == list(range(6))
    assert [len(f) for f in found] == [3, 3]
    assert shares.share_of(everything, None, tmp_path / "none", lambda: 1 / 0) == list(range(6))
    assert shares.share_of(everything, shares.Share(0, 1, ""), tmp_path / "none", lambda: 1 / 0) == list(
        range(6)
    )


@pytest.mark.parametrize("share", ["3/3", "-1/3", "1", "a/b", "1/0", "/", "1/2/3"])
def test_bad_shares(share):
    with pytest.raises(UsageError, match="is not i/n with 0 <= i < n"):
        shares.which_share(share, {})


def slurm(number, count, least, most):
    values = {"ID": number, "COUNT": count, "MIN": least, "MAX": most}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        (slurm(0, 8, 0, 7), "0/8"),
        (slurm(8, 8, 1, 8), "7/8"),
        (slurm(5, 3, 1, 5), "2/3"),  # --array=1-5:2
        (slurm(7, 2, 3, 7), "1/2"),  # --array=3,7
        (slurm(4, 1, 4, 4), "0/1"),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}, "2/3"),
    ],
)
def test_shares_of_array_jobs(environment, expected):
    found = shares.which_share("", environment)
    assert (found and str(found)) == expected
    assert str(shares.which_share("1/2", environment)) == "1/2"  # what is said counts


@pytest.mark.parametrize(
    "environment, why",
    [
        (slurm(3, 3, 1, 7), "not evenly spaced"),
        (slurm(2, 3, 1, 7), "not evenly spaced"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETIONS is not set"),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "3"}, "JOB_COMPLETIONS=3"),
    ],
)
def test_arrays_that_are_no_shares(environment, why):
    with pytest.raises(UsageError, match=f"is set, but does not say which share .*{why}.*--cells=i/n"):
        shares.which_share("", environment)
