"""A workdir in an object store: here a stand-in for one, which has no folders, renames or half-written objects."""

import glob
import io
import os
import shutil

import jax
import pytest
from etils import epath
from etils.epath import backend, gpath, stat_utils
from jax.experimental.compilation_cache import compilation_cache

from configs import finetune
from vtabjax import results
from vtabjax.runtime import files
from vtabjax.sweep import artefacts, conversions, converters_client, plan, runner, shares, status


class Store(backend.Backend):
    """``gs://bucket/...`` as files below `root`; an object is there when its writer has closed it."""

    def __init__(self, root):
        self.root, self.writes, self.reads = root, [], []

    def _at(self, path):
        return os.path.join(self.root, os.fspath(path).removeprefix("gs://"))

    def open(self, path, mode):
        if "w" not in mode:
            self.reads.append(os.fspath(path))
            return open(self._at(path), mode)  # noqa: SIM115
        store, kind = self, io.BytesIO if "b" in mode else io.StringIO

        class Upload(kind):
            def __exit__(self, error, *rest):
                if error is None:  # an upload that breaks leaves nothing
                    store._put(path, self.getvalue())
                return super().__exit__(error, *rest)

        return Upload()

    def _put(self, path, content):
        self.writes.append(os.fspath(path))
        os.makedirs(os.path.dirname(self._at(path)), exist_ok=True)
        temporary = self._at(path) + ".upload"
        with open(temporary, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
        os.replace(temporary, self._at(path))

    def exists(self, path):
        return os.path.exists(self._at(path))

    def isdir(self, path):
        return os.path.isdir(self._at(path))

    def listdir(self, path):
        return os.listdir(self._at(path))

    def glob(self, path):
        return ["gs://" + os.path.relpath(p, self.root) for p in glob.glob(self._at(path))]

    def makedirs(self, path, *, exist_ok=False, mode=None):
        pass

    def mkdir(self, path, *, exist_ok=False, mode=None):
        pass

    def rmtree(self, path):
        shutil.rmtree(self._at(path))

    def remove(self, path):
        os.unlink(self._at(path))

    def stat(self, path):
        s = os.stat(self._at(path))
        return stat_utils.StatResult(os.path.isdir(self._at(path)), s.st_size, int(s.st_mtime))

    def walk(self, top, *, top_down=True, on_error=None):
        raise NotImplementedError("walking through a bucket takes forever")

    def _no_rename(self, *_, **__):
        raise NotImplementedError("an object store cannot rename")

    rename = replace = copy = _no_rename


@pytest.fixture
def store(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", store)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)  # compiled programs go to the bucket
    assert epath.Path("gs://bucket/x").exists() is False
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()  # JAX asks once where compiled programs go
    yield store
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def test_a_sweep_in_a_bucket(config, fake_converters, store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = "gs://bucket/runs"
    config.models = "tiny/a,tiny/bad,tiny/nan"
    assert runner.run(config, workdir) == 1
    ((path, record),) = results.records(workdir)
    assert str(path) == f"{workdir}/results/knn/tiny--a/digits.json"
    assert {r["stage"] for _, r in results.errors(workdir)} == {"convert", "features"}
    # The file that says that a model is there came after all others.
    model = [w for w in store.writes if w.startswith(f"{workdir}/models/tiny--a-16/")]
    assert model[-1].endswith("/model.json") and len(model) > 3
    folders = {w.removeprefix(f"{workdir}/").split("/")[0] for w in store.writes if ".writable" not in w}
    assert folders == {"results", "features", "tables", "sweeps", "models", "cache"}
    assert not [w for w in store.writes if "/cache/" in w and "/cache/xla/" not in w]  # images stay here
    assert os.listdir(tmp_path / "home" / "vtabjax" / "images")

    # Again: nothing is converted, read or written again. With another setting: features come from there.
    fake_converters.forget()
    before = len(store.writes)
    assert runner.run(config, workdir) == 1
    assert fake_converters.calls() == [] and all(
        "/tables/" in w or ".writable" in w for w in store.writes[before:]
    )
    config.k, config.models = 3, "tiny/a"
    store.reads.clear()
    assert runner.run(config, workdir) == 0
    assert fake_converters.calls() == [] and len(results.collect(workdir)) == 2
    assert len([r for r in store.reads if r.endswith(".npz")]) == 2
    assert record == results.read(path)  # the first result stays as it was

    # Another machine, which has nothing but the bucket.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    config.dtype = "bfloat16"
    assert runner.run(config, workdir) == 0
    assert fake_converters.calls() == [] and len(results.collect(workdir)) == 3
    capsys.readouterr()
    assert status.main(None, workdir) == 1  # the first sweep's failures
    assert "1 of 3 cells done, 2 failed, 0 missing" in capsys.readouterr().out
    assert not (tmp_path / "gs:").exists()


def test_uploads_that_fail_lose_one_model_at_most(fake_converters, store, monkeypatch):
    """A connection that is reset once is tried again; one that stays broken costs its model, not the others."""
    upload_tree, broken = files.upload_tree, {"tiny--once-16": 1, "tiny--never-16": 99}

    def flaky(source, target, last):
        if broken.get(target.name, 0) > 0:
            broken[target.name] -= 1
            raise ConnectionResetError("connection reset by peer")
        upload_tree(source, target, last)

    monkeypatch.setattr(files, "upload_tree", flaky)
    models = ["tiny/a", "tiny/once", "tiny/never", "tiny/b"]
    with conversions.Conversions(models, "gs://bucket/models", 16, conversions.Limits(60)) as queue:
        for model in ("tiny/a", "tiny/once", "tiny/b"):
            assert (queue.result(model).path / "model.json").exists()
        with pytest.raises(
            converters_client.ConversionError, match="could not be sent to gs://.*reset by peer"
        ):
            queue.result("tiny/never")


def test_an_error_in_between_ends_the_converters(fake_converters, store, monkeypatch):
    """Whatever it is, nobody waits for ever: everyone who asks hears it."""
    told = iter([None])

    def tell(*_):
        next(told)  # raises at the second model

    models = [f"tiny/m{i}" for i in range(3)]
    with conversions.Conversions(
        models, "gs://bucket/models", 16, conversions.Limits(60), on_converted=tell
    ) as queue:
        queue.result("tiny/m0")
        for model in models[1:]:
            with pytest.raises(converters_client.ConversionError, match="the converters cannot run"):
                queue.result(model)


def test_shares_in_a_bucket_need_no_agreement(config, fake_converters, store):
    """Two that write down the shares at the same time write the same."""
    config.models = "tiny/a,tiny/b,tiny/c"
    for i in range(2):
        assert runner.run(config, "gs://bucket/w", f"{i}/2") == 0
        (written,) = [w for w in set(store.writes) if "shares-2" in w]
        before = epath.Path(written).read_text()
        epath.Path(written).unlink()
        runner.assess(plan.read(config), files.as_path("gs://bucket/w"), shares.Share(i, 2, ""))
        assert epath.Path(written).read_text() == before
    assert len(results.collect("gs://bucket/w")) == 3


def test_fine_tuning_needs_a_file_system(fake_converters, store):
    config = finetune.get_config()
    config.models, config.tasks = "tiny/a", "digits"
    with pytest.raises(plan.UsageError, match="--workdir=gs://bucket/w: fine-tuning keeps checkpoints"):
        runner.run(config, "gs://bucket/w")


def test_a_bucket_that_cannot_be_written(config, fake_converters, store, monkeypatch):
    monkeypatch.setattr(store, "_put", lambda *_: (_ for _ in ()).throw(PermissionError("403 Forbidden")))
    with pytest.raises(plan.UsageError, match="cannot be written to .*403 Forbidden.*credentials"):
        runner.run(config, "gs://bucket/w")


def test_a_broken_upload_leaves_nothing(store, monkeypatch, tmp_path):
    def broken(source, target, length):
        raise ConnectionResetError

    monkeypatch.setattr(files.shutil, "copyfileobj", broken)
    with pytest.raises(ConnectionResetError), files.replacing("gs://bucket/f.npz") as temporary:
        temporary.write_bytes(b"1")
    assert not epath.Path("gs://bucket/f.npz").exists() and not temporary.exists()


def test_models_are_fetched_whole(store, tmp_path):
    for name in ("a/b/c.bin", "model.json"):
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_text(name)
    files.upload_tree(tmp_path / "m", files.as_path("gs://bucket/models/m"), last="model.json")
    assert store.writes[-1] == "gs://bucket/models/m/model.json"
    here = artefacts.local(files.as_path("gs://bucket/models/m"))
    assert (here / "a" / "b" / "c.bin").read_text() == "a/b/c.bin"
    count = len(store.reads)
    assert artefacts.local(files.as_path("gs://bucket/models/m")) == here
    assert len(store.reads) == count + 1  # only to see which it is


def test_the_report_of_a_bucket(store, tmp_path):
    import report_data

    from configs import report as report_config
    from vtabjax import report

    report_data.sweep("gs://bucket/runs", 2, ("digits",), ("knn",))
    config = report_config.get_config()
    config.resamples = 100
    assert report.run(config, "gs://bucket/runs") == 0
    folder = tmp_path / "store" / "bucket" / "runs" / "report"
    assert (folder / "report.html").stat().st_size > 1e6 and (folder / "tables" / "knn-accuracy.csv").exists()
    assert (folder / "figures" / "knn-heat.pdf").read_bytes()[:5] == b"%PDF-"
    with pytest.raises(plan.UsageError, match="--workdir=gs://bucket/none: there is no such folder"):
        report.run(config, "gs://bucket/none")


def test_slurm_needs_a_disk(config, fake_converters, store):
    from vtabjax.sweep import slurm

    with pytest.raises(plan.UsageError, match=r"gs://bucket/w/slurm is not; give --config\.slurm\.folder"):
        slurm.submit(config, "gs://bucket/w")
    assert not store.writes
