"""Which addresses a webhook may have.

An address of the dispatcher's own settings is its operator's business. One that a job brought may
come from anybody who can submit, and the dispatcher may reach what they can't: so it must be a
public one by HTTPS, or on a host that the operator has named.
"""

import ipaddress
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

from imagemill.db.errors import UsageError
from imagemill.db.urls import origin

_MOST_CHARACTERS = 2000

_INTO_IPV4 = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "2002::/16", "2001::/32")))
"""IPv6 addresses that lead to an IPv4 address inside of them (NAT64, 6to4, Teredo)."""


class NotAllowedError(Exception):
    """A webhook's address may not be used here; the message says why."""


def check_url(text: str) -> str:
    """The address of a webhook as it was given. Raises `UsageError`, which quotes no path."""
    problem = None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UsageError("a webhook's address is no URL") from None
    if len(text) > _MOST_CHARACTERS:
        problem = f"it has more than {_MOST_CHARACTERS:,} characters"
    elif not text.isascii() or not text.isprintable() or " " in text:
        problem = "it has characters that are none of a URL"
    elif parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        problem = "expected https://host/path"
    elif "@" in parts.netloc:
        problem = "it has a user or a password; put a secret into its path"
    elif parts.fragment:
        problem = "it has a fragment (#), which is never sent"
    if problem is not None:
        raise UsageError(f"webhook {origin(text)}: {problem}")
    return text


def port_of(parts: SplitResult) -> int:
    """The port of an address."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def find_address(url: str, *, trusted: bool, hosts: Sequence[str]) -> str:
    """The IP address to connect to. Asks the resolver, so it may take seconds.

    Who connects must use this one: a name may have another a moment later.

    Args:
        url: as `check_url` accepts it.
        trusted: whether it is of the dispatcher's own settings.
        hosts: patterns (`*.lab`, `10.0.0.7:8080`) of hosts that jobs may name.

    Raises:
        NotAllowedError: the address may not be used.
        OSError: its name is not known.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", port_of(parts)
    free = trusted or any(
        fnmatchcase(name, pattern.lower()) for pattern in hosts for name in (host, f"{host}:{port}")
    )
    if not free and hosts:
        raise NotAllowedError("its host is not in IMAGEMILL_NOTIFY_HOSTS")
    if not free and parts.scheme != "https":
        raise NotAllowedError(
            "a job's webhook must be https://; IMAGEMILL_NOTIFY_HOSTS allows more"
        )
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(place[0]) for *_, place in found]
    if not free and not all(map(_is_public, addresses)):
        raise NotAllowedError("its host is not public; IMAGEMILL_NOTIFY_HOSTS allows it")
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return _is_public(str(ip.ipv4_mapped))
        if any(ip in network for network in _INTO_IPV4):
            return False
    return ip.is_global and not ip.is_multicast
