"""TLS to the broker: `rediss://` checks the server's certificate and its name.

`sentinels://` is the same for Sentinels and for the servers behind them: it is our own name for
kombu's `sentinel://` with TLS, which kombu knows only from options.

kombu's default is the opposite: without `ssl_cert_reqs` in the URL it accepts any certificate. Then
anybody on the network between a worker and its broker could pretend to be the broker. So the
options are written into the URL here, before Celery sees it. They are also given to Celery as a
setting, because Flower reads only that.
"""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from imagemill.db.errors import SettingsError
from imagemill.db.urls import split_urls

_SCHEMES = frozenset({"rediss", "sentinels"})
_VERIFY = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}


def with_tls(urls: str, authority: Path | None) -> str:
    """The broker's URL (or several with `;` between them) with every TLS option added.

    `authority` is a PEM file of the authorities to trust; None means those of the system. Options
    that a URL already has are kept. URLs without TLS are returned as they are. Raises
    `SettingsError` if an option has no meaning or a file is missing.
    """
    return ";".join(_secured(url, authority) for url in split_urls(urls))


def tls_options(urls: str) -> dict[str, Any] | None:
    """The options of the first URL of a `with_tls` result, in the form of `broker_use_ssl`.

    None if it has no TLS: with this setting, Celery would use TLS with any server.
    """
    first = urlsplit(split_urls(urls)[0])
    if first.scheme not in _SCHEMES:
        return None
    options: dict[str, Any] = {n: v for n, v in parse_qsl(first.query) if n.startswith("ssl_")}
    options["ssl_cert_reqs"] = _VERIFY[options["ssl_cert_reqs"]]
    options["ssl_check_hostname"] = options["ssl_check_hostname"] != "false"
    return options


def celery_urls(urls: str) -> str:
    """The URLs as Celery knows them: `sentinels://` becomes `sentinel://` without options."""
    return ";".join(map(_celery_url, split_urls(urls)))


def _celery_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "sentinels":
        return url
    return urlunsplit(parts._replace(scheme="sentinel", query=""))


def _secured(url: str, authority: Path | None) -> str:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        return url
    options = dict(parse_qsl(parts.query))
    asked = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if asked not in _VERIFY:
        raise SettingsError(f"IMAGEMILL_BROKER_URL: ssl_cert_reqs is one of {', '.join(_VERIFY)}")
    options["ssl_cert_reqs"] = asked
    if authority is not None:
        options.setdefault("ssl_ca_certs", str(authority))
    # As in kombu, any text but "false" means yes. So a typing error can't switch the check off.
    any_name = asked == "none" or options.get("ssl_check_hostname", "").lower() == "false"
    options["ssl_check_hostname"] = "false" if any_name else "true"
    trusted = options.get("ssl_ca_certs")
    if trusted is not None and not Path(trusted).is_file():
        raise SettingsError(f"IMAGEMILL_BROKER_CA: there is no file {trusted}")
    return urlunsplit(parts._replace(query=urlencode(options)))
