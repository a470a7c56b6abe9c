"""Which hosts are this machine, and what of a url may be shown."""

from __future__ import annotations

import pytest

from basiq_async._wire.hosts import is_peer_on_this_machine, is_this_machine, show_url


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
        ("https://user:K@example.com/@a", "https://example.com/@a"),
        ("https://us@er:K@example.com?K", "https://example.com?…"),
        ("https://example.com/#K?K", "https://example.com/"),
        ("/path?K", "/path?…"),
        ("", ""),
    ],
)
def test_the_user_and_the_query_of_a_url_are_not_shown(url: str, shown: str) -> None:
    assert show_url(url) == shown
