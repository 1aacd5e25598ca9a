"""The receivers of events: who gets which, and how, as the dispatcher's settings say."""

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from imagemill.db.errors import SettingsError, UsageError
from imagemill.db.queries.jobs.job_watches import WatchRules
from imagemill.db.queries.notifications import EVENTS, Audience, Receiver
from imagemill.db.settings import Settings
from imagemill.db.urls import origin
from imagemill.scheduler_jobs.notifications.addresses import check_url
from imagemill.scheduler_jobs.notifications.signature import read_secrets

COMMAND = Receiver(kind="command", key="command", shown="command")


@dataclass(frozen=True, kw_only=True, slots=True)
class Receivers:
    """The addresses by their keys, the keys that sign, the command, and what jobs may name."""

    urls: Mapping[str, str]
    secrets: tuple[bytes, ...]
    command: tuple[str, ...]
    hosts: tuple[str, ...]
    audience: Audience
    rules: WatchRules

    @classmethod
    def from_settings(cls, settings: Settings) -> "Receivers":
        """Raises `SettingsError` for an address, secret, event or command that can't be used."""
        urls = _urls(settings)
        secrets = _secrets(settings)
        if urls and not secrets:
            raise SettingsError(
                "IMAGEMILL_NOTIFY_URLS: webhooks are signed; set IMAGEMILL_NOTIFY_SECRET as well: "
                'echo "whsec_$(openssl rand -base64 32)"'
            )
        command = _command(settings)
        found = [Receiver(kind="setting", key=key, shown=origin(url)) for key, url in urls.items()]
        if command:
            found.append(COMMAND)
        return cls(
            urls=urls,
            secrets=secrets,
            command=command,
            hosts=tuple((settings.notify_hosts or "").split()),
            audience=Audience(receivers=tuple(found), events=_events(settings)),
            rules=WatchRules(
                dead_images=settings.notify_dead_images,
                dead_share=settings.notify_dead_share,
                stalled_seconds=settings.notify_stalled_seconds,
            ),
        )


def _urls(settings: Settings) -> dict[str, str]:
    given = settings.notify_urls.get_secret_value() if settings.notify_urls else ""
    try:
        urls = [check_url(word) for word in given.split()]
    except UsageError as error:
        raise SettingsError(f"IMAGEMILL_NOTIFY_URLS: {error}") from None
    return {hashlib.sha256(url.encode()).hexdigest()[:16]: url for url in urls}


def _secrets(settings: Settings) -> tuple[bytes, ...]:
    given = settings.notify_secret
    return read_secrets(given.get_secret_value()) if given else ()


def _command(settings: Settings) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(settings.notify_command or ""))
    except ValueError as error:
        raise SettingsError(f"IMAGEMILL_NOTIFY_COMMAND: {error}") from None


def _events(settings: Settings) -> frozenset[str]:
    asked = settings.notify_events.split()
    for event in asked:
        if event not in EVENTS:
            raise SettingsError(
                f"IMAGEMILL_NOTIFY_EVENTS: there is no event {event}; there are {', '.join(EVENTS)}"
            )
    return frozenset(asked)
