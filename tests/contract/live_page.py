"""The page that `make live` writes: what differed between the real Basiq and the fake. Shapes and codes, no values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from .comparison import Comparison

_STATE = re.compile(r"(?<=<!-- live: written by make live -->\n).*?(?=\n<!-- end of live -->)", re.DOTALL)


def write_page(found: Comparison, root: Path, day: date) -> None:
    """Write ``docs/live.md``, and say it in README.md and on the page on the fake."""
    (root / "docs" / "live.md").write_text(render(found, day), encoding="utf-8")
    count = len(found.differences)
    what = "nothing" if not count else "one point" if count == 1 else f"{count} points"
    for file, link in (("README.md", "docs/live.md"), ("docs/the-fake.md", "live.md")):
        text = (root / file).read_text(encoding="utf-8")
        state = f"`make live` compared it with the real Basiq on {day}: [{what} differed]({link})."
        written, times = _STATE.subn(state, text)
        assert times == 1, f"{file} has no place for it"
        (root / file).write_text(written, encoding="utf-8")


def render(found: Comparison, day: date) -> str:
    """Return the page."""
    return "\n".join(_lines(found, day)) + "\n"


def _lines(found: Comparison, day: date) -> Iterator[str]:
    yield "# Compared with the real Basiq"
    yield ""
    yield f"`make live` wrote this page on {day}, from {found.requests} requests. It holds shapes and codes, and no"
    yield "values of an account."
    yield ""
    yield from _section("What differed", map(str, found.differences), "Nothing.")
    yield from _section("What the fake does not have", (f"GET {path}" for path in found.unknown), "Nothing.")
    yield from _section("What could not be compared", found.skipped, "Nothing.")
    yield from _section("Orders", (f"{path}: {order}" for path, order in found.orders.items()), "None was seen.")
    yield "## Responses"
    requests: Any = found.shapes["requests"]
    for name, seen in requests.items():
        yield ""
        yield f"### {name}"
        yield ""
        yield "```text"
        yield f"status {', '.join(map(str, seen['statuses']))}"
        yield from (f"header {header}: {' or '.join(forms)}" for header, forms in seen["headers"].items())
        yield from (f"{fact}: {is_so}" for fact, is_so in seen["facts"].items())
        yield from (f"{place}  {_describe(field)}" for place, field in seen["fields"].items())
        yield "```"


def _section(heading: str, lines: Iterator[str] | tuple[str, ...], none: str) -> Iterator[str]:
    yield f"## {heading}"
    yield ""
    yield "\n".join(f"- {line}" for line in lines) or none
    yield ""


def _describe(field: Mapping[str, Any]) -> str:
    forms = [f"({' or '.join(field[name])})" for name in ("forms", "values") if field[name]]
    return " ".join(["/".join(field["types"]), *forms, *([] if field["always"] else ["sometimes"])])
