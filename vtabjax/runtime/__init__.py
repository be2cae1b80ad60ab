"""The machine: devices, processes, memory, files, and what makes XLA's CPU backend faster."""

__all__ = ["devices", "files", "memory", "processes", "xla_cpu"]
