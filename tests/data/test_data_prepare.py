"""Preparing data sets: the table, one failure among others, damaged folders, wrong settings."""

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tfds_tiny

from configs import prepare as config_file
from vtabjax import data, tasks
from vtabjax.data import downloads, prepare


@pytest.fixture
def config(tmp_path):
    c = config_file.get_config("vtab")
    c.data_dir, c.tasks = str(tmp_path / "data"), "svhn,eurosat,dsprites_location,dsprites_orientation"
    return c


@pytest.fixture
def feed():
    """Hands tiny examples to the builders of the named tasks; a task can be made to fail."""
    import tensorflow_datasets as tfds

    with contextlib.ExitStack() as stack:

        def feed(*names, failing=()):
            for name in (*names, *failing):
                task = tasks.get(name)
                source = tfds_tiny.feed(task)
                if name in failing:
                    source = {split: _fail for split in source}
                cls = tfds.builder_cls(task.builder.split(":")[0].split("/")[0])
                stack.enter_context(tfds_tiny.fed(cls, source))

        yield feed


def _fail():
    raise ConnectionError("no route to zenodo.org\nand more lines")


def test_prepares_each_data_set_once_and_again_nothing(config, feed, capsys):
    feed("svhn", "eurosat", "dsprites_location")
    assert prepare.main(config, "") == 0
    out = capsys.readouterr().out
    before, after = out.split("[1/3] eurosat/rgb")
    assert before.count("not prepared") == 3 and "GB free)" in before
    assert "dsprites_location, dsprites_orientation" in before
    assert "[2/3] dsprites" in after and "[3/3] svhn_cropped" in after and "not prepared" not in after
    assert after.count("prepared: ") == 3 and "2.0.0, array_record" in after
    for name in config.tasks.split(","):
        assert len(data.load(name, "test", image_size=8, data_dir=config.data_dir).labels)
    assert prepare.main(config, "") == 0
    out = capsys.readouterr().out
    assert "3 of 3 data sets are prepared." in out and "[1/" not in out


def test_the_other_format(config, feed):
    config.tasks, config.file_format = "svhn", "tfrecord"
    feed("svhn")
    assert prepare.main(config, "") == 0
    assert list(Path(config.data_dir).rglob("*train.tfrecord-00000-of-00001"))
    assert len(data.load("svhn", "test", image_size=8, data_dir=config.data_dir).labels) == 20


def test_one_that_fails_does_not_stop_the_others(config, feed, capsys):
    feed("svhn", "dsprites_location", failing=["eurosat"])
    assert prepare.main(config, "") == 1
    out, err = capsys.readouterr()
    assert "eurosat/rgb failed: ConnectionError: no route to zenodo.org\n" in err
    assert err.count(" failed: ") == 1
    for name in ("svhn", "dsprites_orientation"):
        data.require_prepared(name, config.data_dir)
    with pytest.raises(data.NotPreparedError):
        data.require_prepared("eurosat", config.data_dir)
    shutil.rmtree(Path(config.data_dir) / "svhn_cropped")
    feed("eurosat")
    assert prepare.main(config, "") == 0  # goes on where it was
    assert "[1/2] eurosat/rgb" in capsys.readouterr().out


def test_check_changes_nothing(config, tmp_path, capsys):
    config.check = True
    config.tasks = ",".join(tasks.VTAB)
    assert prepare.main(config, "") == 1
    out = capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    assert "0 of 16 data sets are prepared." in out
    assert "39.1 GB" in out and "4.*.*" in out
    assert "By hand for resisc45: NWPU-RESISC45.rar from https" in out
    assert f"unpacked to {tmp_path}/data/downloads/manual/NWPU-RESISC45/" in out
    assert "By hand for retinopathy: https://www.kaggle.com" in out


def test_check_of_what_is_there(config, tmp_path, capsys):
    config.check, config.tasks = True, "svhn"
    folder = tfds_tiny.prepare("svhn", config.data_dir)
    assert prepare.main(config, "") == 0
    folder.rename(folder.parent / "1.0.0")
    assert prepare.main(config, "") == 1
    out = capsys.readouterr().out
    assert "other version" in out and "holds version 1.0.0, but the task needs 3.*.*" in out


def test_a_missing_download_by_hand(config, capsys, tmp_path):
    config.tasks = "resisc45"
    config.manual_dir = str(tmp_path / "by_hand")
    assert prepare.main(config, "") == 1
    out, err = capsys.readouterr()
    assert "By hand for resisc45: NWPU-RESISC45.rar from https" in out
    assert f"{tmp_path}/by_hand/NWPU-RESISC45/" in out
    assert "resisc45 failed: " in err


def test_a_damaged_folder_is_moved_aside(config, feed, capsys):
    config.tasks = "svhn"
    folder = tfds_tiny.prepare("svhn", config.data_dir, file_format="tfrecord")
    next(folder.glob("*test*")).unlink()
    with pytest.raises(data.NotPreparedError):
        data.require_prepared("svhn", config.data_dir)
    feed("svhn")
    assert prepare.main(config, "") == 0
    aside = folder.parent / f"{folder.name}.damaged"
    out = capsys.readouterr().out
    assert f"was moved to {aside}" in out
    assert "svhn: 1 of 1 files of split test are missing" in out
    assert list(aside.glob("*train*"))  # nothing is deleted
    data.require_prepared("svhn", config.data_dir)


def test_too_little_room(config, feed, capsys, monkeypatch):
    feed("svhn", "eurosat", "dsprites_location")
    monkeypatch.setattr(prepare, "_disk_free", lambda _: int(4e8))
    assert prepare.main(config, "") == 1
    err = capsys.readouterr().err
    assert "svhn_cropped failed: OSError: no room in" in err and "1.6 GB needed, 400 MB free" in err
    data.require_prepared("eurosat", config.data_dir)  # 188 MB fit


@pytest.fixture
def disk(tmp_path):
    with tfds_tiny.small_disk(tmp_path / "disk", "800k") as folder:
        yield folder


def test_a_disk_that_fills_up(config, feed, disk, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "_BYTES", {name: (0, 0) for name in prepare._BYTES})
    feed("svhn", "dmlab", "eurosat")  # 60 pictures of 360 x 480 do not fit
    config.data_dir, config.tasks = str(disk), "svhn,dmlab,eurosat"
    config.file_format = "tfrecord"
    assert prepare.main(config, "") == 1
    out, err = capsys.readouterr()
    assert err.count(" failed: ") == 1 and "dmlab failed: " in err and "o space left on device" in err
    data.require_prepared("svhn", disk)
    data.require_prepared("eurosat", disk)
    assert not list(disk.glob("dmlab/*"))


def test_a_folder_that_cannot_be_written(config, feed, disk, capsys):
    feed("svhn", "eurosat")
    config.data_dir, config.tasks = str(disk), "svhn"
    tfds_tiny.prepare("svhn", disk)
    tfds_tiny.make_read_only(disk)
    assert prepare.main(config, "") == 0  # nothing to write
    config.tasks = "svhn,eurosat"
    assert prepare.main(config, "") == 1
    assert "eurosat/rgb failed: OSError: " in capsys.readouterr().err
    assert len(data.load("svhn", "test", image_size=8, data_dir=disk).labels) == 20


def test_what_an_interrupted_run_left_is_named(config, feed, capsys):
    feed("svhn")
    config.tasks = "svhn"
    leftover = Path(config.data_dir) / "svhn_cropped" / "incomplete.ABC_3.1.0"
    leftover.mkdir(parents=True)
    assert prepare.main(config, "") == 0
    assert f"an interrupted preparation left {leftover}" in capsys.readouterr().out
    assert leftover.exists()


def test_every_data_set_has_a_version_that_can_be_generated(tmp_path):
    for name in tasks.VTAB:
        task = tasks.get(name)
        builder = prepare.builder(task, tmp_path, "array_record")
        assert builder.version.tfds_version_to_prepare is None
        names = prepare._BYTES  # sizes for the table
        assert task.builder.split(":")[0] in names


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("tasks", "svhn,flower", "unknown task 'flower'; did you mean flowers102"),
        ("tasks", "folder:/nowhere", "there is no folder /nowhere"),
        ("file_format", "riegeli", "config.file_format='riegeli' is not known; choose array_record or"),
    ],
)
def test_wrong_settings(config, field, value, message, capsys):
    config[field] = value
    assert prepare.main(config, "") == 2
    out, err = capsys.readouterr()
    assert message in err and out == ""


def test_a_folder_of_pictures_is_not_prepared(config, tmp_path, capsys):
    for cls in "ab":
        (tmp_path / "mine" / cls).mkdir(parents=True)
        (tmp_path / "mine" / cls / "1.png").write_bytes(b"")
    config.tasks = f"folder:{tmp_path}/mine"
    assert prepare.main(config, "") == 2
    assert "need no preparation" in capsys.readouterr().err


def test_suites():
    assert config_file.get_config().tasks == ",".join(tasks.VTAB)
    assert config_file.get_config("vtab_full").tasks == config_file.get_config("vtab").tasks
    with pytest.raises(ValueError, match="suite 'all'.*vtab_full"):
        config_file.get_config("all")
    mini = config_file.get_config("mini")
    assert prepare.main(mini, "") == 0  # embedded: nothing to do


def test_command_line(tmp_path):
    command = [sys.executable, "main.py", "--config=configs/prepare.py", "--config.check=true"]
    done = subprocess.run(
        [*command, "--config.tasks=dtd,digits", f"--config.data_dir={tmp_path}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "1 of 2 data sets are prepared." in done.stdout and "embedded" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_answer_is_told_at_once(config, capsys, monkeypatch):
    """In one line, instead of what tensorflow-datasets says after minutes; the other data sets go on."""
    monkeypatch.setattr(downloads.urllib.request, "getproxies", dict)
    monkeypatch.setattr(downloads, "_connect", lambda host, port, seconds: "its name does not resolve")
    config.tasks = "dtd"
    assert prepare.main(config, "") == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x]
    assert line.startswith("dtd failed: ConnectionError: no connection to ")
    assert "(its name does not resolve): try again later" in line


def test_hosts_are_asked_together(monkeypatch):
    asked, all_asked = [], threading.Barrier(4)

    def connect(host, port, seconds):
        asked.append((host, port))
        all_asked.wait(10)  # breaks if they were asked one after the other
        return "" if host == "c.org" else "refused"

    monkeypatch.setattr(downloads.urllib.request, "getproxies", dict)
    monkeypatch.setattr(downloads, "_connect", connect)
    urls = ["http://a.org/1", "https://b.org/1", "https://b.org/2", "ftp://c.org/x", "https://d.org:8443/"]
    assert downloads.unreachable(urls) == dict.fromkeys(["a.org", "b.org", "d.org"], "refused")
    assert sorted(asked) == [("a.org", 80), ("b.org", 443), ("c.org", 21), ("d.org", 8443)]
    monkeypatch.setattr(downloads.urllib.request, "getproxies", lambda: {"https": "proxy"})
    assert downloads.unreachable(urls) == {}


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(downloads.urllib.request, "getproxies", dict)
    monkeypatch.setattr(downloads, "_connect", lambda *_: released.wait(60) and "")
    assert downloads.unreachable(["https://a.org/"], seconds=0.05) == {"a.org": "no answer in 0.05 s"}
    released.set()


def test_a_port_that_is_closed_and_one_that_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert downloads._connect("127.0.0.1", port, 5) == ""
    assert downloads._connect("127.0.0.1", port, 5) == "Connection refused"


def test_progress_is_bytes_in_lines(tmp_path, capsys):
    (tmp_path / "old").write_bytes(b"0" * 5000)
    with downloads.progress([tmp_path], 2e6, every=0.01):
        (tmp_path / "new").write_bytes(b"0" * 1_000_000)
        while "1 MB of about 2 MB" not in capsys.readouterr().out:
            pass


def test_the_smallest_comes_first(config, feed, capsys):
    feed("svhn", "eurosat", "dsprites_location")
    assert prepare.main(config, "") == 0
    out = capsys.readouterr().out
    assert re.findall(r"^\[\d/3\] (\S+)$", out, re.M) == ["eurosat/rgb", "dsprites", "svhn_cropped"]
