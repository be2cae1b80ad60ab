"""Where examples come from: each module opens a task's split as a `vtabjax.data.types.Source`."""

__all__ = ["bundled", "folder", "rows", "sprites", "tfds"]
