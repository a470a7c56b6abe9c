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


_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)(?:[^/?#]*@)?"
    r"(?P<place>(?:\[[0-9a-f:.%]+\]|[^\s/?#@:\[\]\\]*)(?::[0-9]{1,5})?(?:/[^?#@]*)?)(?P<query>\?[^@]*)?(?:#[^@]*)?",
    re.IGNORECASE,
)
"""Behind the user and the password there is no further "@": one stands where a password has a "/", "?" or "#" in it."""
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}://", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://\S+", re.IGNORECASE)
_INTENDED = re.compile(r"[a-z][a-z0-9+.-]+:|[^@]*@", re.IGNORECASE)
"""How a URL may begin that was mistyped. A single letter and a colon are a drive."""


def show_url(url: str) -> str:
    """Return a URL of any kind, such as http, postgresql or redis, without user, password, query values and fragment.

    What cannot be parsed without a doubt is not quoted: of such a text only its scheme is returned.
    """
    found = _URL.fullmatch(url)
    if found is None:
        scheme = _SCHEME.match(url)
        return f"{scheme[0] if scheme else ''}…"
    return f"{found['scheme']}{found['place']}{'?…' if found['query'] else ''}"


_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)

ENCODE = "a '/', '@', '?', '#' or ':' in its user or password must be percent-encoded"
"""What to do about a URL that is not readable."""


def is_readable_url(url: str) -> bool:
    """Return whether it is certain which part of a URL is its password: else an error about its host could show it."""
    return _URL.fullmatch(url) is not None


def show_place(place: str) -> str:
    """Return the name of a file as it is, and a URL, or what may have been meant as one, as ``show_url`` does.

    The service in the query of a database is shown: it is no key.
    """
    if not _INTENDED.match(place):
        return place
    place, service = split_service(place)
    shown = show_url(place)
    return f"{shown}?service={service}" if service and "?" not in shown else shown


def split_service(place: str) -> tuple[str, str]:
    """Return the URL of a database without ``service=NAME`` of its query, and that name; else an empty name."""
    base, _, query = place.partition("?")
    parts = query.split("&")
    names = [part.removeprefix("service=") for part in parts if part.startswith("service=")]
    if len(names) != 1 or not _SERVICE.fullmatch(names[0]):
        return place, ""
    rest = "&".join(part for part in parts if not part.startswith("service="))
    return f"{base}?{rest}" if rest else base, names[0]


def show_urls_in(text: str) -> str:
    """Return a text with each URL in it as ``show_url`` returns it."""
    return _URL_IN_TEXT.sub(lambda found: show_url(found[0]), text)
