"""Sweeps: which cells there are, who runs them, what they need, what is told. `runner.run` is the way in."""

__all__ = [
    "adapters",
    "artefacts",
    "conversions",
    "costs",
    "failures",
    "folders",
    "heartbeat",
    "inputs",
    "people",
    "plan",
    "progress",
    "runner",
    "select",
    "slurm",
    "status",
    "tables",
    "worker",
]
