"""Compiled programs on disk: a machine of the same kind compiles nothing, one of another kind finds nothing."""

import io
import os
import subprocess
import sys

import conftest
import pytest

from vtabjax.runtime import devices


def compiled(folder, kind, flags=""):
    """(programs compiled, programs found, what was said on stderr)."""
    done = subprocess.run(
        [sys.executable, str(conftest.PROGRAMS / "compiled_programs.py"), str(folder), kind],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=True,
    )
    return (*map(int, done.stdout.split()), done.stderr)


def test_programs_are_for_one_kind_of_machine(tmp_path):
    first, found, errors = compiled(tmp_path, "avx512")
    assert first > 0 and found == 0 and errors == ""
    assert compiled(tmp_path, "avx512") == (0, first, "")
    assert compiled(tmp_path, "avx2") == (first, 0, "")
    assert compiled(tmp_path, "avx512", "--xla_cpu_max_isa=AVX2") == (first, 0, "")


@pytest.mark.parametrize("field", ["flags", "Features"])
def test_the_kind_is_what_the_cpu_can_do(field, monkeypatch):
    def kind(line):
        monkeypatch.setattr("builtins.open", lambda *_, **__: io.StringIO(f"model name : x\n{line}\n"))
        return devices._cpu_kind()

    names = [kind(f"{field}\t: sse avx avx2"), kind(f"{field}\t: avx avx2 sse"), kind(f"{field}\t: sse avx")]
    assert names[0] == names[1] != names[2]
