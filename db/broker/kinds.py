"""The kinds of broker: those that are tested, those that Celery may serve, and the rest."""

from kombu.transport import TRANSPORT_ALIASES, get_transport_cls

from imagemill.db.errors import SettingsError, first_line
from imagemill.db.urls import split_urls

SUPPORTED = "redis://, rediss://, redis+socket://, sentinel:// and sentinels://"
"""Redis or Valkey on a port, the same with TLS, on a socket file, behind Sentinel, with TLS too."""

_TESTED = frozenset({"redis", "rediss", "redis+socket", "sentinel", "sentinels"})


def check_kinds(urls: str) -> None:
    """Raises `SettingsError` if Celery can't serve one of the broker's URLs on this machine."""
    for scheme in sorted(_schemes(urls) - _TESTED):
        if not scheme:
            raise SettingsError(f"IMAGEMILL_BROKER_URL is no URL; supported: {SUPPORTED}")
        if scheme not in TRANSPORT_ALIASES:
            raise SettingsError(
                f"IMAGEMILL_BROKER_URL: {scheme}:// is no broker; supported: {SUPPORTED}"
            )
        try:
            get_transport_cls(scheme)
        except ImportError as error:
            raise SettingsError(
                f"IMAGEMILL_BROKER_URL: {scheme}:// needs a package that is not here "
                f"({first_line(error)}); supported: {SUPPORTED}"
            ) from error


def notice(urls: str) -> str | None:
    """A warning for the start of a process if the broker's kind is not tested; else None."""
    unknown = sorted(_schemes(urls) - _TESTED)
    if not unknown:
        return None
    return f"broker {', '.join(f'{s}://' for s in unknown)} is not tested; supported: {SUPPORTED}"


def _schemes(urls: str) -> set[str]:
    """The part before `://` of each URL; empty for a text without one."""
    return {url.partition("://")[0] if "://" in url else "" for url in split_urls(urls)}
