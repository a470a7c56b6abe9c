"""``docs/cli.md`` says what the commands say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import typer

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.skipif(typer.__version__ != "0.29.2", reason="the page was written with another release of typer")
def test_the_page_of_the_command_line_is_made_from_the_commands() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.page() == (DOCS / "cli.md").read_text(encoding="utf-8"), "run: python docs/generate_cli.py"
