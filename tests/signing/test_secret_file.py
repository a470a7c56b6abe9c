"""A file of signing secrets: what is read and written, who can open it, and how long a replaced secret stays."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from basiq_async import ConfigurationError, Secret
from basiq_async._signing import secret_file
from basiq_async.receiver import SecretFile, SecretStore
from basiq_async.testing import ManualClock
from tests.support.deliveries import OTHER_SECRET, SECRET
from tests.support.real_time import PATIENCE

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
        with pytest.raises(ConfigurationError, match="it is a symbolic link"):
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
    ("name", "why"), [("missing/secret", "No such file"), (".", "is not a regular file"), ("nul\0", "a null character")]
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
        reading.wait(0.04)  # time for the other one to read, if nothing kept it from that
        replace(path, content)

    monkeypatch.setattr(secret_file, "replace_private", slow)
    files = [SecretFile(tmp_path / "secret") for _ in range(2)]
    await asyncio.gather(files[0].write(SECRET), files[1].write(OTHER_SECRET))
    assert sorted(texts(await files[0].read())) == sorted([SECRET, OTHER_SECRET])


@pytest.mark.parametrize("call", ["read", "write"])
async def test_a_file_that_does_not_respond_is_an_error_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(secret_file, "TIME_LIMIT", 0.02)
    answers = threading.Event()
    monkeypatch.setattr(secret_file, "read_lines", lambda *_: answers.wait(PATIENCE))
    file = SecretFile(tmp_path / "secret")
    file.path.write_text(SECRET)
    try:
        with pytest.raises(ConfigurationError, match=r"did not respond within 0\.02 s"):
            await (file.read() if call == "read" else file.write(OTHER_SECRET))
    finally:
        answers.set()


async def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = SecretFile(tmp_path / "pipe")
    for call in (file.read, file.check, lambda: file.write(SECRET)):
        with pytest.raises(ConfigurationError, match="is not a regular file"):
            await call()


async def test_no_other_user_can_hold_up_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user who may read a folder can lock it. A link, or a file of that user, in the lock's place is refused."""
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    file, lock = SecretFile(tmp_path / "secret"), tmp_path / ".secret.lock"
    await file.write(SECRET)
    os.close(held)
    lock.touch(mode=0o600)  # of a writer that was killed
    await file.write(OTHER_SECRET)
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]
    lock.symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigurationError, match="it is a symbolic link"):
        await file.write(THIRD)
    lock.unlink()
    lock.touch(mode=0o666)
    lock.chmod(0o666)
    with pytest.raises(ConfigurationError, match="other users can open it"):
        await file.write(THIRD)
    assert texts(await file.read()) == [OTHER_SECRET, SECRET]


async def test_a_writer_waits_for_another_one_in_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_file, "TIME_LIMIT", 0.2)
    file = SecretFile(tmp_path / "secret")
    held = os.open(tmp_path / ".secret.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ConfigurationError, match="did not respond"):
        await file.write(SECRET)
    writing = asyncio.create_task(file.write(SECRET))
    await asyncio.sleep(0.01)
    os.unlink(tmp_path / ".secret.lock")
    os.close(held)
    await writing
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


async def test_a_lock_on_a_file_that_the_writer_before_has_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two writers would each have a lock, and one would lose the other's secret."""
    real, locks = fcntl.flock, list[int]()

    def flock(descriptor: int, operation: int) -> None:
        if not locks:
            os.unlink(tmp_path / ".secret.lock")
        locks.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    await SecretFile(tmp_path / "secret").write(SECRET)
    assert len(locks) == 2


async def test_a_file_of_another_user_is_read_and_not_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who planted it knows its secret, which would be valid for 28 hours more."""
    file = SecretFile(tmp_path / "secret")
    file.path.write_text(SECRET)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for call in (file.check, lambda: file.write(OTHER_SECRET)):
        with pytest.raises(ConfigurationError, match="cannot be written: it belongs to another user"):
            await call()
    assert texts(await file.read()) == [SECRET]


async def test_a_file_that_every_user_can_write_to_is_named_in_the_log_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = SecretFile(tmp_path / "secret")
    file.path.write_text(SECRET)
    for mode, said in ((0o644, 0), (0o666, 1), (0o666, 1)):
        file.path.chmod(mode)
        assert texts(await file.read()) == [SECRET]
        assert caplog.text.count(f"can write to the file of secrets '{file.path}'") == said


@pytest.mark.parametrize("content", [f"BASIQ_WEBHOOK_SECRET={SECRET}", f"{SECRET} changeme"])
async def test_no_frame_of_an_error_shows_what_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """``pytest.raises`` of tests/conftest.py looks through the frames."""
    path = tmp_path / ".env"
    path.write_text(content)
    file = SecretFile(path)
    for call in (file.check, lambda: file.write(OTHER_SECRET)):
        with pytest.raises(ConfigurationError, match="something else"):
            await call()
    with pytest.raises(ConfigurationError, match="a time zone"):
        await SecretFile(path, clock=lambda: datetime(2026, 1, 5)).read()  # the mistake
    path.write_text(SECRET)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        await file.write(OTHER_SECRET)


def test_it_shows_its_path_and_is_equal_to_another_of_that_path() -> None:
    assert repr(SecretFile("/a/secret")) == "SecretFile('/a/secret')"
    assert SecretFile("a/secret") == SecretFile(Path("a/secret"))
    assert len({SecretFile("a"), SecretFile("a"), SecretFile("b")}) == 2
    assert SecretFile("a") != "a"


def test_a_former_secret_stays_longer_than_basiq_resends() -> None:
    assert timedelta(hours=27, minutes=35) < secret_file.KEEP_FORMER
