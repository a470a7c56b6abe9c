"""Whatever a user can type is shown on a page: the names of ``tests/api.txt``, but for those of results.

Attributes are not looked for: the reference shows them with their docstrings. Nor are arguments that are passed by
position, or those of a class that only the package makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from tests.support.api import SNAPSHOT
from tests.support.environment import ROOT
from tests.support.pages import PAGES

EXEMPT = {
    "SQLInbox.handled_at": "what `inbox get` shows",
    "WebhookReceiver.accepts_type": "called by a replay and the doctor",
    "WebhookReceiver.dispatch": "called by a replay",
    "WebhookReceiver.dispatch.can_be_alone": "called by a replay",
    "WebhookReceiver.dispatch.patience": "called by a replay",
}
"""Names that no page shows, and why: users do not type them."""


@cache
def shown() -> str:
    """The code of all pages, with their headings, and the examples."""
    parts = [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    for page in (path for path in PAGES if "reference" not in path.parts):
        text = re.sub(r"<!-- invisible.*?-->", "", page.read_text(), flags=re.DOTALL)
        parts += re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
        text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        parts += re.findall(r"`[^`]+`|^#+ .*$", text, re.MULTILINE)
    return "\n".join(parts)


@cache
def words() -> frozenset[str]:
    return frozenset(re.findall(r"\w+", shown()))


def keywords(signature: str) -> list[str]:
    """The arguments of a line of the snapshot that can only be passed by name."""
    depth, arguments, current = 0, list[str](), ""
    for char in signature[signature.index("(") + 1 :]:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0 or (char == "," and depth == 0):
            arguments.append(current.strip())
            current = ""
            if depth < 0:
                break
        else:
            current += char
    named = arguments[arguments.index("*") + 1 :] if "*" in arguments else []
    return [re.split(r"\W", each)[0] for each in named if not each.startswith("*")]


def names() -> Iterator[tuple[str, str]]:
    """Yield each name with the path that leads to it."""
    owner, makes = "", True
    for line in SNAPSHOT.read_text().splitlines():
        text = line.strip()
        if found := re.match(r"class (\w+)", line):
            owner = found[1]
            makes = f"{owner}(" in shown()
            yield owner, owner
        elif found := re.match(r"(?:(?:async|static|class) )*def (\w+)\(", text):
            if not line.startswith(" "):
                owner, makes = "", True
            name = found[1]
            path = f"{owner}.{name}" if owner else name
            if not name.startswith("__"):
                yield path, name
            if makes or name != "__init__":
                for each in keywords(text):
                    yield f"{path}.{each}", each


def test_each_name_that_a_user_can_type_is_on_a_page_or_has_a_reason() -> None:
    found = dict(names())
    missing = {path for path, name in found.items() if name not in words()}
    assert sorted(missing - EXEMPT.keys()) == [], "show them where a user would look, or make them private"
    assert sorted(EXEMPT.keys() & found.keys() - missing) == [], "these are shown: take them out of EXEMPT"


_GONE = re.compile(
    r"\bidentity=|--identity\b|\banother_service=|--another-service\b|\bformerly\b|--formerly\b|not-sealed|\bexclusive=True\b"
    r"|basiq-async (?:jobs|worker)\b|name is `connection`|\bother_webhooks=|\baccept_loss\b"
)
"""Options, commands and problems that there were once."""


def test_no_page_names_what_is_gone() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.py"),
    ]
    found = [f"{page.name}: {name[0]}" for page in pages if page.is_file() for name in _GONE.finditer(page.read_text())]
    assert found == []
