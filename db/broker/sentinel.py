"""Redis Sentinel: which server is the master is asked anew at each connection.

With `sentinel://` the broker's URL names the Sentinels, several with `;` between them. They say
where the master is now, so after a failover the next connection goes to the new master.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry

from imagemill.db.errors import SettingsError
from imagemill.db.settings import Settings
from imagemill.db.urls import split_urls

_SCHEMES = frozenset({"sentinel", "sentinels"})

_URL = "IMAGEMILL_BROKER_URL"


def sentinel_options(
    settings: Settings, timeouts: Mapping[str, Any], tls: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The transport options that kombu needs for Sentinel; empty for any other broker.

    Connections to the Sentinels get the socket options of `timeouts` and the options of `tls`;
    connections to the servers have both anyway. Raises `SettingsError` if the master has no name,
    or if the URLs do not describe one broker.
    """
    urls = [urlsplit(url) for url in split_urls(settings.broker_url.get_secret_value())]
    if not any(url.scheme in _SCHEMES for url in urls):
        return {}
    if settings.broker_master is None:
        raise SettingsError(
            "IMAGEMILL_BROKER_MASTER is not set; sentinel:// needs the name of the master, as in "
            "the Sentinels' line `sentinel monitor NAME …`"
        )
    # kombu takes the password and the database of the URL that it tries first.
    if len({(url.scheme, url.username, url.password, url.path) for url in urls}) > 1:
        raise SettingsError(
            f"{_URL}: every Sentinel's URL has the same scheme, user, password and database number"
        )
    own = settings.broker_sentinel_password
    login = {} if own is None else {"password": own.get_secret_value()}
    secured = {} if tls is None else {"ssl": True, **tls}
    sockets = {name: value for name, value in timeouts.items() if name.startswith("socket_")}
    to_sentinels = {**sockets, **login, **secured}
    return {"master_name": settings.broker_master, "sentinel_kwargs": to_sentinels}


def impatient(options: dict[str, Any]) -> dict[str, Any]:
    """The same transport options, with which a Sentinel that does not answer is left at once.

    By default redis-py asks each eleven times, which takes seconds. It is asked twice here: a
    connection that idled may have been closed. Options for any other broker stay as they are.
    """
    if "sentinel_kwargs" not in options:
        return options
    twice = {"retry": Retry(NoBackoff(), 1)}
    return {**options, "sentinel_kwargs": {**options["sentinel_kwargs"], **twice}}


def said(error: Exception) -> str:
    """The message of a client's error, in one line.

    redis-py prints the whole client for each Sentinel that failed, and leaves the reason out.
    """
    text, client, _ = str(error).partition(" : <redis.")
    if not client:
        return str(error)
    return (
        f"{text}: no Sentinel answers, or its certificate is not trusted (IMAGEMILL_BROKER_CA), "
        "or none knows that name"
    )
