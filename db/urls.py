"""Addresses of services, and the passwords in them."""

import re
from urllib.parse import unquote, urlsplit, urlunsplit

_NEXT = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_OPTION = re.compile(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)([^&]*)", re.IGNORECASE)


def without_password(text: str) -> str:
    """A URL, or several with `;` between them, with every password replaced by `***`."""
    return ";".join(_OPTION.sub(r"\1***", _masked(url)) for url in split_urls(text))


def split_urls(text: str) -> list[str]:
    """The URLs in a text. It may hold several with `;` between them, as Celery allows."""
    return _NEXT.split(text)


def passwords_in(text: str) -> set[str]:
    """The passwords in a URL, or in several with `;` between them, both as written and decoded.

    A password may come before the host or in an option, for example of a database URL. Text that
    is no URL yields nothing.
    """
    found: set[str] = set()
    for url in split_urls(text):
        found |= {value for _, value in _OPTION.findall(url)}
        try:
            found.add(urlsplit(url).password or "")
        except ValueError:
            continue
    return found | {unquote(password) for password in found}


def has_host(url: str) -> bool:
    """Whether a URL can be divided into its parts, and its port, if it has one, is a port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return port is None or parts.hostname is not None


def origin(url: str) -> str:
    """A web address without its path and options, which may be secrets: `https://host:8443`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _masked(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"  # what can't be divided may hold a password anywhere
    if parts.password is None:
        return url
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
    return urlunsplit(parts._replace(netloc=netloc))
