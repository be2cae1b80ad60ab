"""Lines that are too long, divided as formatters divide them."""

from __future__ import annotations

_WIDTH = 88
_OPENING, _CLOSING = "([{", ")]}"


def wrapped(line: str, indent: int) -> list[str]:
    """A logical line as lines of at most 88 characters, where brackets allow it.

    Args:
      line: without what it is indented by.
      indent: by how many spaces.
    """
    space = " " * indent
    if len(line) + indent <= _WIDTH:
        return [space + line]
    start, end = _last_bracket(line)
    if start < 0 or end - start < 2:
        return [space + line]
    items = _items(line[start + 1 : end])
    before, after = space + line[: start + 1], space + line[end:]
    if len(items) == 1:
        return [before, *_comprehension(items[0], indent + 4), after]
    inside: list[str] = []
    for item in items:
        lines = wrapped(item, indent + 4)
        inside += [*lines[:-1], f"{lines[-1]},"]
    return [before, *inside, after]


def _comprehension(item: str, indent: int) -> list[str]:
    """What stands alone in brackets; one that is too long and goes "each for it in them" on two lines."""
    each, loop, them = item.partition(" for ")
    if (
        len(item) + indent <= _WIDTH
        or not loop
        or any(each.count(a) != each.count(b) for a, b in ("()", "[]", "{}"))
    ):
        return wrapped(item, indent)
    return [*wrapped(each, indent), *wrapped(f"for {them}", indent)]


def _last_bracket(line: str) -> tuple[int, int]:
    """Where the last bracket that is in no other one opens and closes; (-1, -1) without one."""
    depth, start, found, quoted = 0, -1, (-1, -1), ""
    for i, c in enumerate(line):
        if quoted:
            quoted = "" if c == quoted else quoted
        elif c in "\"'":
            quoted = c
        elif c in _OPENING:
            if depth == 0:
                start = i
            depth += 1
        elif c in _CLOSING:
            depth -= 1
            if depth == 0:
                found = (start, i)
    return found


def _items(text: str) -> list[str]:
    """What commas divide, those within brackets and quotes apart."""
    items, depth, quoted = [""], 0, ""
    for c in text:
        if quoted:
            quoted = "" if c == quoted else quoted
        elif c in "\"'":
            quoted = c
        depth += (c in _OPENING) - (c in _CLOSING) if not quoted else 0
        if c == "," and depth == 0 and not quoted:
            items.append("")
        else:
            items[-1] += c
    return [item.strip() for item in items if item.strip()]
