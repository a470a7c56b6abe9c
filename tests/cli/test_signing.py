"""The commands ``sign`` and ``verify``."""

from __future__ import annotations

from pathlib import Path

from tests.support.deliveries import OTHER_SECRET, SECRET, payload

from ..support.command_line import run_command

KEY = "a2V5OnNlY3JldA=="


def run(*arguments: str, given: bytes = b"", secret: str = SECRET, code: int = 0) -> str:
    result = run_command(*arguments, stdin=given, env={"BASIQ_WEBHOOK_SECRET": secret, "COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert SECRET not in result.output
    return result.output


def test_what_is_signed_on_the_command_line_verifies_on_it(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(payload())
    (tmp_path / "headers").write_text(run("sign", str(tmp_path / "body"), "--id", "msg_1"))
    assert run("verify", str(tmp_path / "body"), "--headers", str(tmp_path / "headers")) == '{"genuine":true}\n'


def test_a_body_comes_from_the_standard_input() -> None:
    Path("headers").write_text(run("sign", "--at", "1767614400", given=b"\xff\x00"))
    options = ("--headers", "headers")
    assert run("verify", *options, "--at", "1767614700", given=b"\xff\x00") == '{"genuine":true}\n'
    assert "no signature matches" in run("verify", *options, "--at", "1767614400", given=b"\xff", code=1)
    assert "301 s ago" in run("verify", *options, "--at", "1767614701", given=b"\xff\x00", code=1)
    run("verify", *options, "--at", "1767614701", "--tolerance", "301", given=b"\xff\x00")


def test_a_delivery_that_is_not_genuine_ends_with_1_and_the_reason() -> None:
    Path("headers").write_text(run("sign", given=b"{}"))
    options = ("--headers", "headers")
    assert "no signature matches" in run("verify", *options, given=b"{}", secret=OTHER_SECRET, code=1)
    Path("headers").write_text("")
    assert "webhook-id" in run("verify", *options, given=b"{}", code=1)
