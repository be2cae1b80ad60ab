"""The page about a task as HTML."""

from __future__ import annotations

from vtabjax import __version__
from vtabjax.options import DataOptions
from vtabjax.report import templates
from vtabjax.report.data_page import _content, _sprites
from vtabjax.report.data_page._look import Look


def render(look: Look, own: DataOptions) -> str:
    """The page's HTML.

    Args:
      look: the task, looked at.
      own: the options it was looked at with.
    """
    most = _content.shown_per_class(look, own.per_class)
    rows = _content.classes(look)
    return (
        templates.environment()
        .get_template("data.html")
        .render(
            look=look,
            options=own,
            title=look.task.name.rstrip("/").rpartition("/")[2] or look.task.name,
            version=__version__,
            splits={name: len(e.labels) for name, e in look.splits.items()},
            classes=rows,
            most=most,
            sheets=[_content.sheet(look, row["number"], most, own.seed) for row in rows] if most else [],
            equal=_content.equal(look),
            near=_content.nearly_equal(look),
            doubtful=_content.doubtful(look),
            stored=_content.stored(look),
            brightness=_content.brightness(look),
            grey=int(look.grey.sum()),
            rule=_content.rule(look),
            edge=_sprites.EDGE,
            style=templates.asset("style.css") + templates.asset("data.css"),
            script=templates.asset("data.js"),
        )
    )
