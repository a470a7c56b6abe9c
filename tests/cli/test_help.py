"""Every ``--help``: as it was reviewed, and within the width of the terminal."""

from __future__ import annotations

import inspect
import re

import pytest
import typer

from ..support.command_line import commands, run_command

COMMANDS = dict(commands())


@pytest.mark.parametrize("path", list(COMMANDS), ids=lambda path: " ".join(path) or "basiq-async")
def test_the_help_of_every_command_fits_and_has_what_the_page_says(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts are those of the code: the built page has them from the same commands."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)  # an earlier test may have imported it with another width
    done = run_command(*path, "--help", env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    shown = "".join(done.stdout.replace("│", "").split())
    command = COMMANDS[path]
    inner = getattr(command, "commands", {})
    parameters = [each for each in command.params if not getattr(each, "hidden", False)]
    options = [each.opts[0] for each in parameters if each.param_type_name == "option"]
    arguments = [(each.metavar or each.name).strip("[]") for each in parameters if each.param_type_name == "argument"]
    summaries = [inspect.cleandoc(each.help).partition("\n\n")[0] for each in inner.values()]
    assert command.help
    assert all(each.help for each in parameters)
    texts = [inspect.cleandoc(each.help) for each in (command, *parameters)]
    for part in (*inner, *options, *arguments, *summaries, *texts):
        # A long word that does not fit its column is cut.
        missing = [word for word in part.replace("\\", "").replace("`", "").split() if word[:16] not in shown]
        assert not missing, f"{' '.join(path)} --help does not show {missing} of {part!r}"


@pytest.mark.parametrize(("columns", "locale"), [(40, "C"), (60, "C.UTF-8")])
def test_no_name_is_cut_in_a_narrow_terminal_or_in_one_without_unicode(
    columns: int, locale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", columns)  # as above
    for path, command in COMMANDS.items():
        shown = run_command(*path, "--help", env={"COLUMNS": str(columns), "NO_COLOR": "1", "LC_ALL": locale}).stdout
        # The name of an option and of its values is one word.
        assert all(len(line) <= columns or line.startswith("  -") for line in shown.splitlines())
        assert "…" not in shown
        assert "u2026" not in shown
        names = [name for each in command.params if not getattr(each, "hidden", False) for name in each.opts]
        words = set(re.split(r"[\s,│|]+", shown))
        for name in (*getattr(command, "commands", {}), *(name for name in names if name.startswith("-"))):
            assert name in words, f"{' '.join(path)} --help does not show {name}"


def test_the_exit_codes_are_a_table_in_the_help() -> None:
    shown = run_command("--help").stdout
    for code in ("0", "1", "2", "3", "130", "143"):
        assert any(line.strip().startswith(f"{code} ") for line in shown.splitlines())


def test_the_nearest_name_is_suggested_for_a_command_that_is_not_known() -> None:
    done = run_command("webhoks", "list")
    assert done.exit_code == 2
    assert "webhooks" in done.stderr


def test_only_a_flag_that_is_set_by_default_has_a_name_that_unsets_it() -> None:
    parameters = [each for command in COMMANDS.values() for each in command.params]
    assert {name for each in parameters for name in each.secondary_opts} == {"--no-check"}


def test_h_is_help() -> None:
    for path in ((), ("webhooks", "list")):
        asked = run_command(*path, "-h")
        assert asked.exit_code == 0
        assert asked.stdout == run_command(*path, "--help").stdout
    without = []
    for path in COMMANDS:
        command = COMMANDS[()]
        context = typer.Context(command, **command.context_settings)
        for name in path:
            command = command.commands[name]
            context = typer.Context(command, parent=context, **command.context_settings)
        without += [path] if "-h" not in command.get_help_option_names(context) else []
    assert without == []
