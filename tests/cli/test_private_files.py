"""Files that the command line writes or believes are private: a link, or a file that others can open, is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Endpoint, Run, Served


@pytest.fixture
def served(recently_served: Served) -> Served:
    return recently_served


def link(file: Path) -> None:
    """Put a link in the file's place, to what stood there or to nothing."""
    if file.exists():
        file.rename("another")
    file.symlink_to(Path("another").absolute())


def open_to_others(file: Path) -> None:
    file.touch()
    file.chmod(0o644)


def pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file, 0o600)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link": (link, "symbolic link"),
    "a file that others can open": (open_to_others, "chmod 600"),
    "a pipe": (pipe, "cannot be written"),
}


@pytest.mark.parametrize(("put", "why"), HOSTILE.values(), ids=HOSTILE)
def test_a_report_is_written_to_a_private_file_alone(
    run: Run, served: Served, endpoint: Endpoint, put: Callable[[Path], None], why: str
) -> None:
    webhook_id = served.fake.seed_messages(3, failed=1.0)
    put(Path("evidence"))
    done = run("recover", webhook_id, "--to", endpoint.url, "--report", "evidence")
    assert (done.exit_code, endpoint.ids, Path("another").exists()) == (2, [], False), done.output
    assert why in done.stderr
    Path("evidence").unlink()
    assert run("recover", webhook_id, "--to", endpoint.url, "--report", "evidence").exit_code == 0
    assert Path("evidence").stat().st_mode & 0o777 == 0o600
