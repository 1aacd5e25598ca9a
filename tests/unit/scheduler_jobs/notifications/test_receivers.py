"""Receivers from settings, and which addresses a webhook may have."""

import socket

import pytest

from imagemill.db.errors import SettingsError, UsageError
from imagemill.db.process.logs import secrets_of
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.notifications.addresses import (
    NotAllowedError,
    check_url,
    find_address,
)
from imagemill.scheduler_jobs.notifications.receivers import Receivers
from tests.helpers.http.webhooks import SECRET

URL = "https://hooks.example.com/services/hunter2"


@pytest.mark.parametrize(
    "settings",
    [
        {"notify_urls": URL},
        {"notify_urls": "ftp://hunter2", "notify_secret": SECRET},
        {"notify_urls": f"{URL}#hunter2", "notify_secret": SECRET},
        {"notify_urls": URL, "notify_secret": "hunter2"},
        {"notify_events": "job.finished job.hunter"},
        {"notify_command": "mail 'somebody"},
    ],
)
def test_a_setting_that_can_t_be_used_is_one_line(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as refused:
        Receivers.from_settings(Settings.load(**settings))
    assert "\n" not in str(refused.value)
    assert "services" not in str(refused.value)


def test_receivers_show_no_secret() -> None:
    settings = Settings.load(notify_urls=f"{URL} http://lab:8080/x", notify_secret=SECRET)
    found = Receivers.from_settings(settings).audience.receivers
    assert [each.shown for each in found] == ["https://hooks.example.com", "http://lab:8080"]
    assert "hunter2" not in "".join(each.key for each in found)
    assert "hunter2" not in repr(settings)
    assert {URL, SECRET} <= set(secrets_of(settings)), "log lines have *** in their place"


@pytest.mark.parametrize(
    "url",
    [
        *("", "hooks", "file:///etc/passwd", "gopher://a/", "https://", "https:///x"),
        *("https://user:hunter2@host/", "https://host/#x", "https://host/a b", "https://host:x/"),
        *("https://host/\r\nX: y", "https://hö.de/", "https://host:0/", "https://[::1/"),
        "https://host/" + "x" * 2000,
    ],
)
def test_what_no_webhook_is(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_url(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        *[(each, False) for each in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1")],
        *[(each, False) for each in ("169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1")],
        *[(each, False) for each in ("::1", "::", "fe80::1%2", "fd00::1", "::ffff:127.0.0.1")],
        *[(each, False) for each in ("64:ff9b::a00:1", "2002:7f00:1::", "2001:0:1::1")],
    ],
)
def test_a_job_s_webhook_reaches_public_addresses_alone(
    monkeypatch: pytest.MonkeyPatch, address: str, public: bool
) -> None:
    """By the address that its name has, not by the name; and that one is connected to."""

    def resolved(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    if public:
        assert find_address(URL, trusted=False, hosts=()) == address
    else:
        with pytest.raises(NotAllowedError):
            find_address(URL, trusted=False, hosts=())
    assert find_address(URL, trusted=True, hosts=()) == address
    assert find_address(URL, trusted=False, hosts=("*.Example.com:443",)) == address


def test_every_address_of_a_name_must_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(0, 0, 0, "", (each, 443)) for each in ("93.184.215.14", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(NotAllowedError):
        find_address(URL, trusted=False, hosts=())
