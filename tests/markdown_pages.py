"""Programs in Markdown: pages whose `python` blocks run from top to bottom, as a reader would run them.

A block of ```text right below a block of ```python is what that prints: words must be the same, numbers close. Programs
for another machine are blocks of ```py: they are compiled, not run.
"""

import contextlib
import io
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

FENCE = re.compile(r"^([ ]*)```(\w*)[^\n]*\n(.*?)^\1```[ ]*$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
      language: what stands behind the fence.
      text: what is between the fences.
      line: the line of its first line, from 1.
      below: the text between the block before it and this one.
    """

    language: str
    text: str
    line: int
    below: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text, end, found = page.read_text(), 0, []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(match[2], textwrap.dedent(match[3]), line, text[end : match.start()].strip()))
        end = match.end()
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def run(page: Path, **replaced: str) -> dict[str, Any]:
    """Runs the programs of a page in one namespace and compares what they print with what the page shows.

    Args:
      page: a Markdown file.
      **replaced: names of arguments and what to give them instead, such as num_rounds="12".

    Returns:
      the names that the programs leave.
    """
    names: dict[str, Any] = {"__name__": f"page_{page.stem}"}
    printed = ""
    # What a reader has: the suite's stricter promotion is none of the page's business.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks(page):
            if block.language in ("python", "py"):
                program = _compiled(page, block, replaced)
            if block.language == "python":
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(program, names)
                printed = output.getvalue()
            elif block.language == "text" and not block.below:
                assert_shown(printed, block, page)
    return names


def assert_shown(printed: str, block: Block, page: Path, *, rtol: float = 0.15, atol: float = 0.02) -> None:
    """What was printed is what the page shows, up to numbers that differ a little and spaces."""
    where = f"{page.name}, line {block.line}"
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (printed, block.text)]
    assert words[0] == words[1], f"{where}: the program prints\n{printed}\nand the page shows\n{block.text}"
    pairs = zip(_numbers(printed), _numbers(block.text), strict=True)
    for got, shown in pairs:
        assert abs(got - shown) <= atol + rtol * abs(shown), f"{where}: {shown} is shown, and {got} printed:\n{printed}"


def _numbers(text: str) -> Iterator[float]:
    return (float(number.replace(",", "")) for number in NUMBER.findall(text))


def _compiled(page: Path, block: Block, replaced: dict[str, str]) -> Any:
    text = block.text
    for name, value in replaced.items():
        text = re.sub(rf"\b{name}=[\w.]+", f"{name}={value}", text)
    return compile("\n" * (block.line - 1) + text, str(page), "exec")
