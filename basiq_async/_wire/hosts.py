"""Tell whether a host is this machine, and remove credentials from a URL. No I/O; imports no module of the package."""

from __future__ import annotations

import ipaddress
import re


def is_this_machine(host: str) -> bool:
    """Return whether a host, in lower case and without brackets, is ``localhost``, or an address of 127.0.0.0/8 or ::1.

    A subdomain of ``localhost`` is not accepted: some systems ask DNS for it, so it can lead anywhere.
    """
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback and getattr(address, "ipv4_mapped", None) is None


def is_peer_on_this_machine(address: str) -> bool:
    """Return whether a socket's peer address is this machine. IPv4 can have the form ``::ffff:127.0.0.1``."""
    address = address.partition("%")[0]
    mapped = address.lower().removeprefix("::ffff:")
    return is_this_machine(mapped if "." in mapped else address)


def show_url(url: str) -> str:
    """Return a URL without the parts that can hold credentials: user and password, query values, and fragment."""
    head, mark, _ = re.sub(r"#.*", "", url, flags=re.DOTALL).partition("?")
    scheme, slashes, rest = head.partition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}{mark and '?…'}"
