"""Which hosts are this machine, and which parts of a url may be shown. Pure, and imports nothing of the package."""

from __future__ import annotations

import ipaddress
import re


def is_this_machine(host: str) -> bool:
    """Whether a host, in lower case and without brackets, is ``localhost`` or an address of 127.0.0.0/8 or ::1.

    A name below ``localhost`` is not: some systems ask DNS for it, and it can lead anywhere.
    """
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback and getattr(address, "ipv4_mapped", None) is None


def is_peer_on_this_machine(address: str) -> bool:
    """The same of the address that a socket gives for its other end, where IPv4 can be ``::ffff:127.0.0.1``."""
    address = address.partition("%")[0]
    mapped = address.lower().removeprefix("::ffff:")
    return is_this_machine(mapped if "." in mapped else address)


def show_url(url: str) -> str:
    """Return a url without possible credentials: its user and password, the values of its query, its fragment."""
    head, mark, _ = re.sub(r"#.*", "", url, flags=re.DOTALL).partition("?")
    scheme, slashes, rest = head.partition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}{mark and '?…'}"
