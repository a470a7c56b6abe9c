"""A file of signing secrets: what is read and written, who can open it, and how long a replaced secret stays."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from basiq_async import ConfigurationError, Secret
from basiq_async._signing import secret_file
from basiq_async.receiver import SecretFile, SecretStore
from basiq_async.testing import ManualClock
from tests.support.deliveries import OTHER_SECRET, SECRET

THIRD = "whsec_dGhlIHRoaXJkIHNpZ25pbmcgc2VjcmV0IQ=="


def texts(secrets: tuple[Secret, ...]) -> list[str]:
    return [each.reveal() for each in secrets]


async def test_what_is_written_is_read_and_the_one_before_stays_for_28_hours(tmp_path: Path) -> None:
    clock = ManualClock()
    file = SecretFile(tmp_path / "secret", clock=clock)
    assert isinstance(file, SecretStore)
    assert await file.read() == ()
    await file.write(Secret(SECRET))
    assert (tmp_path / "secret").read_text() == SECRET + "\n"
    await file.write(SECRET)
    assert texts(await file.read()) == [SECRET]
    await file.write(OTHER_SECRET)
    clock.advance(3600 * 20)
    await file.write(THIRD)
    assert texts(await file.read()) == [THIRD, OTHER_SECRET, SECRET]
    clock.advance(3600 * 8)
    assert texts(await file.read()) == [THIRD, OTHER_SECRET]
    await file.write(OTHER_SECRET)  # back again
    clock.advance(3600 * 27)
    assert texts(await file.read()) == [OTHER_SECRET, THIRD]
    clock.advance(3600 * 1)
    assert texts(await file.read()) == [OTHER_SECRET]


@pytest.mark.parametrize("text", [f"{SECRET} {OTHER_SECRET}", f"{SECRET}\n\n  {OTHER_SECRET} # of the other url\n"])
async def test_secrets_of_others_are_read_one_to_a_line_or_separated_by_spaces(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(text)
    file = SecretFile(str(tmp_path / "secret"))
    assert texts(await file.read()) == [SECRET, OTHER_SECRET]
    await file.write(THIRD)
    assert texts(await file.read()) == [THIRD, SECRET, OTHER_SECRET]


@pytest.mark.parametrize("end", ["2000-01-01T00:00:00", "2000-01-01T00:00:00+00:00"])
async def test_a_secret_whose_time_is_over_is_not_read(tmp_path: Path, end: str) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n{OTHER_SECRET}  # until {end}\n{THIRD}  # until some day\n")
    assert texts(await SecretFile(tmp_path / "secret").read()) == [SECRET, THIRD]


async def test_reading_follows_the_links_of_a_mounted_secret_and_writing_refuses_them(tmp_path: Path) -> None:
    mounted = tmp_path / "secret"
    for version, secret in (("..1", SECRET), ("..2", OTHER_SECRET)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "secret").write_text(secret)
        (tmp_path / version / "secret").chmod(0o444)
    (tmp_path / "..data").symlink_to("..1")
    mounted.symlink_to("..data/secret")
    file = SecretFile(mounted)
    assert texts(await file.read()) == [SECRET]
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").replace(tmp_path / "..data")
    assert texts(await file.read()) == [OTHER_SECRET]
    for refused in (file.check, lambda: file.write(THIRD)):
        with pytest.raises(ConfigurationError, match="is a link"):
            await refused()
    assert texts(await file.read()) == [OTHER_SECRET]


async def test_what_is_written_is_private_and_replaces_what_others_could_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o644)
    await SecretFile(path).write(OTHER_SECRET)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("content", ["notes of mine", "\xff"])
async def test_nothing_is_written_over_another_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes"
    path.write_text(content, encoding="latin-1")
    file = SecretFile(path)
    for refused in (file.check, lambda: file.write(SECRET)):
        with pytest.raises(ConfigurationError, match="notes' holds something else than signing secrets") as caught:
            await refused()
        assert content not in str(caught.value)
    assert path.read_text(encoding="latin-1") == content


@pytest.mark.parametrize(
    ("name", "why"), [("missing/secret", "No such file"), (".", "Is a directory"), ("nul\0", "a null character")]
)
async def test_a_place_that_cannot_be_written_is_found_before(tmp_path: Path, name: str, why: str) -> None:
    file = SecretFile(tmp_path / name)
    for refused in (file.check, lambda: file.write(SECRET)):
        with pytest.raises(ConfigurationError, match=f"cannot be (read|written): .*{why}"):
            await refused()


async def test_a_text_that_is_no_secret_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="placeholder") as caught:
        await SecretFile(tmp_path / "secret").write("changeme")
    assert caught.value.__context__ is None
    assert not any(tmp_path.iterdir())


async def test_writers_at_once_keep_each_others_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the lock undone, the later write would not know of the other's secret."""
    reading, replace = threading.Event(), secret_file.replace_private

    def slow(path: Path, content: bytes) -> None:
        reading.wait(0.05)  # time for the other one to read, if nothing kept it from that
        replace(path, content)

    monkeypatch.setattr(secret_file, "replace_private", slow)
    files = [SecretFile(tmp_path / "secret") for _ in range(2)]
    await asyncio.gather(files[0].write(SECRET), files[1].write(OTHER_SECRET))
    assert sorted(texts(await files[0].read())) == sorted([SECRET, OTHER_SECRET])


async def test_a_file_that_does_not_respond_is_an_error_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_file, "TIME_LIMIT", 0.02)
    os.mkfifo(tmp_path / "pipe")
    file = SecretFile(tmp_path / "pipe")
    began = time.monotonic()
    try:
        with pytest.raises(ConfigurationError, match=r"did not respond within 0\.02 s"):
            await file.read()
        assert time.monotonic() - began < 5
    finally:
        os.close(os.open(tmp_path / "pipe", os.O_RDWR))  # so that its thread ends


def test_it_shows_its_path_and_is_equal_to_another_of_that_path() -> None:
    assert repr(SecretFile("a/secret")) == "SecretFile('a/secret')"
    assert SecretFile("a/secret") == SecretFile(Path("a/secret"))
    assert len({SecretFile("a"), SecretFile("a"), SecretFile("b")}) == 2
    assert SecretFile("a") != "a"


def test_a_former_secret_stays_longer_than_basiq_resends() -> None:
    assert timedelta(hours=27, minutes=35) < secret_file.KEEP_FORMER
