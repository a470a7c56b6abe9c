"""``login``, ``logout``, ``whoami`` and ``--profile``: no other user can read a key that is stored, and never shown."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from ..support.command_line import run_command
from .conftest import Run, Served


@pytest.fixture(autouse=True)
def home(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where profiles are stored; the environment names no key."""
    monkeypatch.setattr("typer.get_app_dir", lambda name: str(tmp_path / "settings"))
    monkeypatch.delenv("BASIQ_API_KEY")
    monkeypatch.delenv("BASIQ_BASE_URL")
    return tmp_path / "settings"


def login(served: Served, *arguments: str, key: str | None = None) -> Any:
    return run_command("login", "--base-url", served.url, *arguments, stdin=f"{key or served.fake.DEFAULT_API_KEY}\n")


def test_a_profile_is_named_before_the_command(run: Run, served: Served, home: Path) -> None:
    done = run_command("--profile", "uat", "login", "--base-url", served.url, stdin=f"{served.fake.DEFAULT_API_KEY}\n")
    assert done.exit_code == 0, done.output
    assert done.row == {"profile": "uat", "base_url": served.url}
    file = home / "profiles.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for arguments in (("--profile", "uat", "events", "types"), ("--profile=uat", "events", "types")):
        assert run(*arguments).exit_code == 0
    shown = run("--profile", "uat", "whoami")
    assert shown.row["source"] == "profile uat"
    assert served.fake.DEFAULT_API_KEY not in done.output + shown.output
    missing = run("webhooks", "list")
    assert missing.exit_code == 2
    assert "basiq-async login" in missing.stderr
    assert run("--profile", "uat", "logout", "--yes").row["removed"]
    assert run("--profile", "uat", "whoami").exit_code == 2
    assert run("--profile", "uat", "logout").exit_code == 2


def test_the_variable_names_a_profile_and_the_default_one_needs_no_name(
    run: Run, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert login(served).exit_code == 0
    assert run("whoami").row["profile"] == "default"
    monkeypatch.setenv("BASIQ_PROFILE", "other")
    refused = run("whoami")
    assert refused.exit_code == 2
    assert "no profile 'other'" in refused.stderr


def test_the_keys_of_the_environment_come_before_the_default_profile(served: Served) -> None:
    login(served)
    assert run_command("whoami", env=served.environment).row["source"] == "BASIQ_API_KEY"
    assert run_command("--profile", "default", "whoami", env=served.environment).row["profile"] == "default"


def test_a_profiles_key_goes_to_no_other_url(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    login(served)
    before = len(served.fake.requests)
    monkeypatch.setenv("BASIQ_BASE_URL", "https://elsewhere.example")
    refused = run("whoami")
    assert refused.exit_code == 2
    assert "is for" in refused.stderr
    assert len(served.fake.requests) == before


def test_a_key_that_basiq_refuses_is_not_stored(served: Served, home: Path) -> None:
    refused = login(served, key="bm90OmEta2V5")
    assert refused.exit_code == 3
    assert "bm90OmEta2V5" not in refused.output
    assert not home.exists()
    assert login(served, "--no-check", key="bm90OmEta2V5").exit_code == 0
    nothing = run_command("login", stdin="\n")
    assert (nothing.exit_code, "no API key was entered" in nothing.stderr) == (2, True)


def test_a_file_that_others_can_read_is_refused(run: Run, served: Served, home: Path) -> None:
    login(served)
    (home / "profiles.json").chmod(0o644)
    refused = run("whoami")
    assert refused.exit_code == 2
    assert "chmod 600" in refused.stderr
    (home / "profiles.json").chmod(0o600)
    (home / "profiles.json").write_text("{")
    assert "is not JSON" in run("whoami").stderr


def test_a_profile_without_a_key_is_told_and_removing_one_asks(run: Run, served: Served, home: Path) -> None:
    login(served)
    asked = run("logout")
    assert (asked.exit_code, "pass --yes" in asked.stderr) == (2, True), "without a terminal it asks nothing"
    assert run("whoami").exit_code == 0
    (home / "profiles.json").write_text('{"profiles": {"default": {}}}')
    lost = run("whoami")
    assert (lost.exit_code, "log in again" in lost.stderr) == (2, True)


def test_the_profiles_are_listed_without_their_keys() -> None:
    none = run_command("profiles")
    assert (none.exit_code, none.stdout, "there are no profiles" in none.stderr) == (0, "", True)
    for name in ("uat", "live"):
        assert run_command("--profile", name, "login", "--no-check", stdin="a2V5OmtleQ==\n").exit_code == 0
    done = run_command("profiles")
    assert done.rows == [{"profile": name, "base_url": "https://au-api.basiq.io"} for name in ("live", "uat")]
    assert "a2V5" not in done.output


PLACES = {
    "before": lambda url: (("--base-url", url, "login"), {}),
    "after": lambda url: (("login", "--base-url", url), {}),
    "environment": lambda url: (("login",), {"BASIQ_BASE_URL": url}),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_key_goes_to_the_base_url_wherever_it_is_given(place: str, served: Served, home: Path) -> None:
    key = f"{served.fake.DEFAULT_API_KEY}\n"
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9"}  # a login to Basiq's own address would fail
    words, env = PLACES[place](served.url)
    done = run_command(*words, stdin=key, env={**nowhere, **env})
    assert done.exit_code == 0, done.output
    assert (done.row["base_url"], len(served.fake.requests)) == (served.url, 2), "a token, and a list"
    words, env = PLACES[place]("")
    refused = run_command("--profile", "empty", *words, "--no-check", stdin=key, env={**nowhere, **env})
    assert (refused.exit_code, "is empty" in refused.stderr or "set and empty" in refused.stderr) == (2, True)
    assert "empty" not in (home / "profiles.json").read_text()
    other = run_command("--base-url", "https://other.example", *PLACES["after"](served.url)[0], stdin=key)
    assert (other.exit_code, "two values" in other.stderr) == (2, True)


@pytest.mark.parametrize("words", [("whoami",), ("webhooks", "list"), ("mock", "call", "state"), ("mock", "wait")])
@pytest.mark.parametrize("profile", [(), ("--profile", "default")])
def test_an_empty_base_url_is_refused_by_every_command(
    words: tuple[str, ...], profile: tuple[str, ...], served: Served
) -> None:
    login(served)
    before = len(served.fake.requests)
    env = {} if profile else {"BASIQ_API_KEY": served.fake.api_key}
    assert run_command("--base-url", served.url, *profile, *words, env=served.environment).exit_code == 0
    assert len(served.fake.requests) > before or words[0] == "mock"
    refused = run_command("--base-url", "", *profile, *words, env=env)
    assert (refused.exit_code, "--base-url is empty" in refused.stderr) == (2, True)


@pytest.mark.parametrize("words", [("login", "--no-check"), ("profiles",), ("webhooks", "list")])
def test_without_a_home_no_profile_is_looked_for_or_stored(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user has no entry in /etc/passwd: "~" would be a folder of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("typer.get_app_dir", lambda name: f"~/.config/{name}")
    done = run_command(*words, stdin="a-key\n")
    assert done.exit_code == 2
    assert "this user has no home. Set HOME, or BASIQ_API_KEY" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_whoami_says_which_reads_are_refused_to_a_key(run: Run, served: Served) -> None:
    login(served)
    assert (run("whoami").row["webhooks"], run("whoami").row["refused"]) == (0, [])
    webhook_id = served.fake.add_webhook("https://example.com/a")
    messages = "/notifications/webhooks/{webhook_id}/messages"
    for path, name in (
        ("/notifications/webhooks", "/notifications/webhooks"),
        (f"/notifications/webhooks/{webhook_id}/messages", messages),
        ("/events/types", "/events/types"),
        ("/events", "/events"),
    ):
        served.fake.fail_next(1_000, status=403, path=path)
        done = run("whoami")
        assert (done.exit_code, done.row["refused"]) == (1, [f"GET {name}"]), done.output
        assert done.row["webhooks"] == (None if name == "/notifications/webhooks" else 1)
        served.fake.reset_log()
    served.fake.disable_account()
    assert run("whoami").exit_code == 3
