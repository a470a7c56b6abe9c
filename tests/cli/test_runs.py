"""The display of a run's progress, which both ``replay`` and ``recover`` have."""

from __future__ import annotations

import pytest
from rich.console import Console

from basiq_async.cli._results import show_details  # private: hours are not to be waited for
from basiq_async.cli._runs import (  # private: hours are not to be waited for
    ProgressLine,
    RunOptions,
    draw_progress,
    report_details,
)
from basiq_async.replay import Progress, Report


def drawn(now: Progress) -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(draw_progress(now))
    return captured.get().rstrip()


def test_the_progress_has_a_bar_if_there_is_a_plan() -> None:
    line = drawn(Progress(handled=40, skipped={"where": 5}, failed=5, rate=25.0, remaining=50, eta=3725.0))
    assert line.endswith("50/100  5 failed  25/s  1:02:05 left")
    assert line.startswith("\u2501" * 10)
    assert drawn(Progress(handled=40, skipped={"where": 5}, rate=25.0)) == "45 done  25/s"
    down = Progress(paused=4.0, down=7.0)
    assert drawn(down).endswith("paused for 4 s, down for 7 s")


def test_an_outage_is_told_when_it_begins_once_a_minute_and_when_it_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("basiq_async.cli._runs.time.monotonic", lambda: now[0])
    shown = ProgressLine()
    for now[0], progress in (
        (100.0, Progress(paused=4.0, down=7.0)),
        (159.0, Progress(paused=4.0, down=66.0)),
        (161.0, Progress(paused=30.0, down=68.0)),
        (162.0, Progress(handled=1)),
    ):
        shown(progress)
    assert capsys.readouterr().err.splitlines() == [
        "the target does not respond; one message is tried in 4 s",
        "waiting for the target, which has been down for 68 s; the next message is tried in 30 s",
        "the target responds again",
    ]


def test_a_pause_that_the_target_asks_for_is_told_once_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("basiq_async.cli._runs.time.monotonic", lambda: now[0])
    shown = ProgressLine()
    for now[0] in (100.0, 110.0, 161.0):
        shown(Progress(paused=90.0))
    assert (
        capsys.readouterr().err.splitlines()
        == ["waiting for the target, which asked for a pause; the next message is tried in 90 s"] * 2
    )


def test_the_line_that_continues_shows_no_query_and_no_password_of_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    class Options(RunOptions):
        command = "recover"

    options = Options(
        webhook_id="w1",
        to="https://service.example/basiq?code=geheim",
        checkpoint="postgresql+asyncpg://user:geheim@db/basiq",
    )
    options.show_line("--retry-dead")
    told = capsys.readouterr().err
    assert "geheim" not in told
    assert "https://service.example/basiq?" in told
    assert "not shown" in told


def test_a_report_is_printed_without_its_place_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(handled=3, skipped={"where": 1}, duration=1.0, cursor="x" * 900, position=4, finished=True)
    print(report)
    show_details(report_details(report))
    assert "xxx" not in capsys.readouterr().out
