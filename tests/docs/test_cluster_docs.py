"""The manifest in docs/cluster.md is one that Kubernetes and main.py understand."""

import re

import conftest
import yaml

from vtabjax.sweep import shares


def test_kubernetes_manifest(run_main, tmp_path):
    text = (conftest.ROOT / "docs" / "cluster.md").read_text()
    job = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    spec = job["spec"]
    assert job["kind"] == "Job" and spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # backoffLimitPerIndex asks for that
    (container,) = spec["template"]["spec"]["containers"]
    environment = {e["name"]: e["value"] for e in container["env"]}
    found = {
        str(shares.which_share("", {**environment, "JOB_COMPLETION_INDEX": str(i)}))
        for i in range(spec["completions"])
    }
    assert found == {f"{i}/16" for i in range(16)}
    mounts = [m["mountPath"] for m in container["volumeMounts"]]
    # The command as it stands there, but for what a test does not have.
    changed = {"--workdir": tmp_path, "--config.models": "tiny/m*", "--config.cache_dir": tmp_path / "images"}
    arguments = []
    for argument in container["args"]:
        name, value = argument.split("=", 1)
        assert not value.startswith("/") or any(value.startswith(f"{m}/") for m in mounts)
        arguments.append(f"{name}={changed.get(name, value)}")
    process = run_main(*arguments, "--config.tasks=digits", "--config.image_size=16", "--config.dry_run=true")
    assert process.returncode == 0, process.stderr
    assert "dry run: nothing was done" in process.stderr
