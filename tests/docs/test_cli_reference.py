"""The built page of the command line ends with every command: made from the commands, and kept in no file."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest

from tests.support.command_line import commands as each_command
from tests.support.environment import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def commands() -> Any:
    spec = importlib.util.spec_from_file_location("commands", DOCS / "_ext" / "commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class App:
    """What a build gives an extension."""

    def __init__(self) -> None:
        self.events: dict[str, Any] = {}

    def connect(self, event: str, call: Any) -> None:
        self.events[event] = call


def test_a_build_puts_each_command_with_each_option_at_the_end_of_its_page_and_of_no_other(commands: Any) -> None:
    app, own, other = App(), ["# The command line\n"], ["# Another\n"]
    commands.setup(app)
    app.events["source-read"](app, "cli", own)
    app.events["source-read"](app, "index", other)
    assert other == ["# Another\n"]
    text = own[0]
    assert text.startswith("# The command line\n\n## Options of several commands\n")
    for path, command in each_command():
        if hasattr(command, "commands"):
            continue
        name = " ".join(path)
        assert re.search(rf"^(###? |- )`{name}[ `]", text, re.MULTILINE), name
        for option in command.params:
            if option.param_type_name == "option" and not option.hidden:
                assert f"`{option.opts[0]}" in text, (name, option.opts)


def test_the_build_loads_it_and_each_link_to_a_command_has_its_heading(commands: Any) -> None:
    assert '    "commands",\n' in (DOCS / "conf.py").read_text(encoding="utf-8")
    headings = re.findall(r"^##+ `?(.*?)`?$", commands.reference(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
    linked = {
        anchor
        for page in DOCS.rglob("*.md")
        for anchor in re.findall(r"\bcli\.md#([\w-]+)\)", page.read_text(encoding="utf-8"))
    }
    assert linked
    assert linked <= anchors
