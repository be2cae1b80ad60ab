"""What the pages share: their templates, style and script, which lie in assets/."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import markupsafe

_FOLDER = Path(__file__).parent / "assets"
_LONG, _FIRST = 400, 200  # rows of a table: up to how many all are laid out, and how many of a longer one


def environment() -> jinja2.Environment:
    """Where templates are found; everything that they insert is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    made.filters |= {"soft": _soft, "stored": _stored}
    made.globals["kept"] = _kept
    return made


def asset(name: str) -> markupsafe.Markup:
    """A file of assets/, as it is."""
    return markupsafe.Markup((_FOLDER / name).read_text(encoding="utf-8"))


def _kept(rows: int) -> int:
    """How many of a table's rows are laid out when a page opens; the others are text until somebody asks for them."""
    return rows if rows <= _LONG else _FIRST


def _stored(html: str) -> markupsafe.Markup:
    """HTML that waits in a <script>, with its own ones; report.js undoes it."""
    return markupsafe.Markup(str(html).replace("</script", "<\\/script"))


def _soft(name: str) -> markupsafe.Markup:
    """A long name with places where it may break."""
    return markupsafe.Markup(re.sub(r"([/_.@-])", r"\1<wbr>", str(markupsafe.escape(name))))
