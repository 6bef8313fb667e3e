"""Docstrings as the site's parser wants them; in the sources they read as they are."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^([ \t]*)Example:[ \t]*$", flags=re.MULTILINE)
RAISES = re.compile(r"^[ \t]*Raises:[ \t]*\n((?:[ \t]+\S.*\n?)+)", flags=re.MULTILINE)
ITEMS = re.compile(r"^[ \t]*(?:Args|Attributes):[ \t]*\n((?:[ \t]+\S.*\n?)+)", flags=re.MULTILINE)
SEVERAL = re.compile(r"^([ \t]+)(\w+(?:, \w+)+): (.*(?:\n\1[ \t]+\S.*)*)", flags=re.MULTILINE)
EXCEPTION = re.compile(r"[A-Za-z][\w, ]*: ")
KEYS = re.compile(r"(?<!`)((?:\['\w+'\])+)")


class Docstrings(griffe.Extension):
    """Changes the text of every docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """What griffe calls for every object."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text: str) -> str:
    """The same docstring: examples under the name that the parser knows, and every name and exception one item.

    A line below Raises that names no exception goes on with the line before; what says "a, b: text" says it of each;
    ['a']['b'] in a first line is no link.
    """
    first, newline, rest = text.partition("\n")
    rest = EXAMPLE.sub(r"\1Examples:", rest)
    rest = RAISES.sub(_one_item_each, rest)
    rest = ITEMS.sub(lambda section: SEVERAL.sub(_of_each, section[0]), rest)
    return KEYS.sub(r"`\1`", first) + newline + rest


def _one_item_each(section: re.Match[str]) -> str:
    head, body = section[0][: -len(section[1])], section[1]
    lines = body.splitlines(keepends=True)
    indent = len(lines[0]) - len(lines[0].lstrip())
    for i, line in enumerate(lines):
        starts = len(line) - len(line.lstrip()) == indent and (i == 0 or EXCEPTION.match(line.lstrip()))
        lines[i] = line if starts else " " * (indent + 2) + line.lstrip()
    return head + "".join(lines)


def _of_each(item: re.Match[str]) -> str:
    return "\n".join(f"{item[1]}{name}: {item[3]}" for name in item[2].split(", "))
