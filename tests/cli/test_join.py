"""``inbox join``: a person says that a webhook took the place of another one; it shows what is there, and asks."""

from __future__ import annotations

from .conftest import TYPE, World, make_inbox

AT = ("--inbox", "inbox.db")


def test_a_webhook_that_basiq_does_not_have_cannot_join(world: World) -> None:
    make_inbox("w1")
    done = world.run("inbox", "join", "none", *AT, "--yes")
    assert (done.exit_code, world.run("inbox", "check", *AT).row["webhooks"]) == (1, ["w1"]), done.output


def test_a_mistyped_id_that_founded_the_inbox_is_named_by_doctor(world: World) -> None:
    w, webhook_id = world, world.webhook(TYPE)
    make_inbox("mistyped")
    found = w.run("webhooks", "doctor", webhook_id, *AT)
    assert "the inbox is of the webhook mistyped, so it refuses each delivery of this one" in found.output
