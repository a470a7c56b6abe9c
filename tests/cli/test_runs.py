"""What is shown of a run: its progress, the lines that continue it, and what a job without a terminal tells."""

from __future__ import annotations

import shlex

import attrs
import pytest

from basiq_async.cli._output import new_session  # private: half a minute is not to be waited for
from basiq_async.cli._recover import RecoverOptions  # private: the stories of its lines have no passwords
from basiq_async.cli._runs import Watch, progress_text  # private: hours are not to be waited for
from basiq_async.replay import Progress


def test_the_progress_is_what_is_done_what_failed_how_fast_and_why_it_pauses() -> None:
    assert progress_text(Progress(handled=40, skipped={"where": 5}, failed=5, rate=25.0)) == "50 done  5 failed  25/s"
    assert progress_text(Progress(paused=4.0, down=7.0)) == "0 done  0/s  paused for 4 s, down for 7 s"


def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *steps: tuple[float, Progress]
) -> list[str]:
    """What a job without a terminal tells that has this progress at these seconds."""
    now = [0.0]
    for module in ("_runs", "_output"):
        monkeypatch.setattr(f"basiq_async.cli.{module}.time.monotonic", lambda: now[0])
    with new_session(json=False):
        watch = Watch()
        watch.begin("messages")
        for now[0], progress in steps:
            watch.on_progress(progress)
    return capsys.readouterr().err.splitlines()


def test_an_outage_is_told_when_it_begins_once_a_minute_and_when_it_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(
        capsys,
        monkeypatch,
        (100.0, Progress(paused=4.0, down=7.0, reason="refused")),
        (129.0, Progress(paused=4.0, down=36.0, reason="refused")),
        (161.0, Progress(paused=30.0, down=68.0, reason="refused")),
        (162.0, Progress(handled=1)),
    )
    assert [line for line in lines if "target" in line] == [
        "the target does not respond: refused; one message is tried in 4 s",
        "waiting for the target, which has been down for 68 s: refused; the next message is tried in 30 s",
        "the target responds again",
    ]


def test_what_asks_for_a_pause_is_told_at_once_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, monkeypatch, (100.0, Progress(paused=4.5, reason="the disk is full")))
    assert (
        "waiting for the target, which asked for a pause: the disk is full; the next message is tried in 5 s" in lines
    )


def test_a_job_without_a_terminal_tells_every_30_s_what_is_done_and_how_fast(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(rate=10.0)
    steps = [(second / 4, attrs.evolve(progress, handled=second)) for second in range(4 * 65)]
    assert printed(capsys, monkeypatch, *steps) == [
        "120 done  10/s",
        "240 done  10/s",
    ]


OPTIONS = RecoverOptions(
    webhook_id="w1",
    to="https://user:geheim@service.example/basiq?code=geheim",
    inbox="postgresql+asyncpg://user:geheim@db/basiq",
    rate=5.0,
)


def test_the_lines_that_help_keep_the_target_and_the_inbox_without_their_passwords(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASIQ_API_KEY", "a2V5OmtleQ==")
    monkeypatch.setenv("BASIQ_BASE_URL", "https://user:geheim@api.example")
    with new_session(json=False):
        OPTIONS.show_line()
        OPTIONS.show_retry(3)
    shown = capsys.readouterr().err
    first, second = (shlex.split(line) for line in shown.splitlines() if line.startswith("  "))
    places = ["--to", "https://service.example/basiq?…", "--inbox", "postgresql+asyncpg://db/basiq"]
    before = ["basiq-async", "--base-url", "https://api.example"]
    assert "geheim" not in shown
    assert shown.count("put back what is not shown") == 2
    assert set(first) == {*before, "recover", "w1", *places, "--rate", "5"}
    assert second == [*before, "quarantine", "retry", *places, "--webhook", "w1"]


@pytest.mark.parametrize(("environment", "flag"), [({}, "given"), ({"BASIQ_PROFILE": "of the day"}, None)])
def test_the_lines_that_help_keep_the_profile(
    environment: dict[str, str], flag: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BASIQ_API_KEY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with new_session(json=False) as session:
        session.profile = flag
        OPTIONS.show_line()
    line = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert line[:3] == ["basiq-async", "--profile", flag or "of the day"]
