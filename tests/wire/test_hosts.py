"""Which hosts are this machine, and what of a url may be shown."""

from __future__ import annotations

import pytest

from basiq_async._wire.hosts import is_peer_on_this_machine, is_this_machine, show_place, show_url, show_urls_in


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.255.254", "::1", "0:0:0:0:0:0:0:1"])
def test_what_no_network_leads_to_is_this_machine(host: str) -> None:
    assert is_this_machine(host)
    assert host == "localhost" or is_peer_on_this_machine(host)


@pytest.mark.parametrize(
    "host",
    ["a.localhost", ".localhost", "localhost.", "localhost.example.com", "127.1", "128.0.0.1", "0.0.0.0", "::", "::2",
     "::ffff:127.0.0.1", "127.0.0.1.example.com", "2130706433", "[::1]", "", "10.0.0.1"],
)  # fmt: skip
def test_no_other_name_or_address_is_this_machine(host: str) -> None:
    assert not is_this_machine(host)


@pytest.mark.parametrize(
    ("address", "here"),
    [("::ffff:127.0.0.1", True), ("::FFFF:127.9.9.9", True), ("::1%lo", True), ("::ffff:10.0.0.1", False),
     ("fe80::1%eth0", False), ("", False)],
)  # fmt: skip
def test_a_peer_is_known_by_the_address_that_its_socket_gives(address: str, here: bool) -> None:
    assert is_peer_on_this_machine(address) is here


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com/basiq", "https://example.com/basiq"),
        ("https://example.com:1/a/b?code=K&x=y#z", "https://example.com:1/a/b?…"),
        ("https://user:K@example.com/a", "https://example.com/a"),
        ("https://us@er:K@example.com?K", "https://example.com?…"),
        ("https://example.com/#K?K", "https://example.com/"),
        ("postgresql+asyncpg://user:K@db:5432/basiq", "postgresql+asyncpg://db:5432/basiq"),
        ("postgresql+asyncpg://user:K@/basiq?host=/run&password=K", "postgresql+asyncpg:///basiq?…"),
        ("redis://:K@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("sqlite+aiosqlite:////srv/a b.db", "sqlite+aiosqlite:////srv/a b.db"),
        # an "/", "@", "?", "#" or ":" in the password is not encoded
        ("postgresql://user:K@K@db/basiq", "postgresql://db/basiq"),
        ("postgresql://user:K/K@db/basiq", "postgresql://…"),
        ("postgresql://user:12/K@db/basiq", "postgresql://…"),
        ("postgresql://user:K@K/K@db/basiq", "postgresql://…"),
        ("redis://:12?K@db", "redis://…"),
        ("redis://user:12#K@db", "redis://…"),
        ("redis://user:K:K", "redis://…"),
        ("https://[K", "https://…"),
        ("postgresql:/user:K@db", "…"),
        ("user:K@db", "…"),
        ("K", "…"),
        ("", "…"),
    ],
)
def test_the_user_and_the_query_of_a_url_are_not_shown(url: str, shown: str) -> None:
    assert show_url(url) == shown
    assert show_urls_in(f"failed: {url}") == f"failed: {shown}" or "://" not in url or " " in url


@pytest.mark.parametrize("place", ["inbox.db", "/srv/a b/inbox.db", r"C:\basiq\inbox.db", "a folder/inbox"])
def test_the_name_of_a_file_is_shown(place: str) -> None:
    assert show_place(place) == place


@pytest.mark.parametrize("place", ["postgresql:/user:K@db", "redis:K", "user:K@db/basiq", "redis://:K/@db"])
def test_what_may_have_been_meant_as_a_url_is_not_quoted(place: str) -> None:
    assert "K" not in show_place(place)
