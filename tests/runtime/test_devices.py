"""What the processes on a machine share."""

import jax

from vtabjax.runtime import devices


def test_compiled_programs_go_where_the_environment_says(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    try:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        devices.use_compilation_cache(str(tmp_path / "workdir"))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "workdir")
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
        devices.use_compilation_cache(str(tmp_path / "workdir"))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
