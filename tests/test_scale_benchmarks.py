"""The benchmarks of large sweeps and of commits, in small."""

import json
import sys

import conftest
import pytest

sys.path.insert(0, str(conftest.ROOT / "benchmarks"))
import compare
import sweep_scale

from vtabjax import results
from vtabjax.sweep import runner, status


def test_a_made_up_sweep_is_finished(tmp_path, capsys):
    config = sweep_scale.config_of(3, 4, tmp_path)
    workdir = tmp_path / "w"
    assert sweep_scale.fill(config, workdir)["cells"] == 12
    paths = results.paths(workdir)
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert sweep_scale.fill(config, workdir)["cells"] == 12 == len(paths)
    for _ in range(2):  # the second time from summaries
        assert runner.run(config, workdir) == 0
        assert "12 done, 0 to do" in capsys.readouterr().err
    (state,) = status.read(workdir)
    assert [(m.done, m.failed, m.missing) for m in state.models] == [(4, 0, 0)] * 3
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_tasks_beyond_vtabs_are_folders(tmp_path):
    config = sweep_scale.config_of(1, 20, tmp_path)
    *_, last = sweep_scale.cells_of(config, tmp_path / "w")
    assert last.task == f"folder:{tmp_path / 'pictures' / 'own019'}"


def test_workers_run_no_cell_twice(tmp_path):
    found = sweep_scale.together(3, 1, 0.001, tmp_path)
    assert found["cells"] == found["files"] == found["written"] == 57


def test_a_comparison_takes_turns(monkeypatch, tmp_path):
    walls = {"old": [2.0, 3.0, 4.0], "new": [1.0, 1.0, 4.0]}

    def take_turns(sides, rounds):
        names = [command[-1] for command, _ in sides]
        assert names == ["old", "new"] and rounds == 3 and all("scores" in command for command, _ in sides)
        return [{"rounds": [{"wall": w} for w in walls[n]], "wall": sorted(walls[n])[1]} for n in names]

    monkeypatch.setattr(compare._alternate, "take_turns", take_turns)
    found = compare.compared("scores", ("old", "new"), 3)
    assert (found["times"], found["least"], found["most"]) == (2.0, 1.0, 3.0)
    assert compare.line("scores", found) == "scores: 2.00 times as fast (1.00 to 3.00); 3 s before, 1 s now"


def test_a_side_uses_the_packages_of_its_root(tmp_path):
    (tmp_path / "vtabjax").mkdir()
    (tmp_path / "vtabjax" / "__init__.py").write_text(
        "import json\nprint(json.dumps({'start': 0}))\nraise SystemExit\n"
    )
    command = [sys.executable, compare.__file__, "HEAD", "--serve", "knn", "--root", str(tmp_path)]
    done = compare.subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"start": 0}


def test_unknown_parts_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare.py", "HEAD", "--parts=scores,speed"])
    with pytest.raises(SystemExit):
        compare.main()
    assert "--parts: speed is not known; choose from scores, linear" in capsys.readouterr().err
