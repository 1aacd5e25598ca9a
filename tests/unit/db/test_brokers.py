"""Which brokers are supported, and what is said of others."""

import ssl
from pathlib import Path

import pytest

from imagemill.db.broker.wake_ups import Tokens, make_app, warn_of_broker
from imagemill.db.errors import BrokerError, SettingsError
from imagemill.db.process.logs import secrets_of
from imagemill.db.settings import Settings

SENTINELS = "sentinel://:secret-one@a:1/2;sentinel://:secret-one@b:2/2"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"broker_url": "redsi://h:1/0"}, "redsi:// is no broker; supported: redis://"),
        ({"broker_url": "localhost"}, "IMAGEMILL_BROKER_URL is no URL; supported: redis://"),
        ({"broker_url": SENTINELS}, "IMAGEMILL_BROKER_MASTER is not set"),
        (
            {"broker_url": "sentinel://:secret-one@a:1/2;redis://h:1/0", "broker_master": "mill"},
            "the same scheme, user, password and database",
        ),
        (
            {"broker_url": SENTINELS.replace("b:2/2", "b:2/3"), "broker_master": "mill"},
            "the same scheme, user, password and database",
        ),
    ],
)
def test_a_broker_that_can_not_work_is_one_line(settings: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_app(Settings.load(**settings))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret-one" not in str(caught.value)


def test_a_transport_that_can_not_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError(f"No module named 'for_{scheme}'")

    monkeypatch.setattr("imagemill.db.broker.kinds.get_transport_cls", missing)
    with pytest.raises(SettingsError, match=r"sqs:// needs a package .*for_sqs.*supported: redis"):
        make_app(Settings.load(broker_url="sqs://key:secret@"))


def test_another_broker_is_named_at_start(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_broker(Settings.load(broker_url="amqp://user:secret@h//"))
    assert "broker amqp:// is not tested; supported: redis://, rediss://" in caplog.text
    assert "secret" not in caplog.text
    caplog.clear()
    known = ("redis://h:1/0", "rediss://h:1/0", "redis+socket:///a/b?virtual_host=0", SENTINELS)
    for url in known:
        warn_of_broker(Settings.load(broker_url=url))
    assert not caplog.text


def test_sentinels_are_asked_with_their_own_password() -> None:
    settings = Settings.load(
        broker_url=SENTINELS, broker_master="mill", broker_sentinel_password="secret-two"
    )
    app = make_app(settings)
    options = app.conf.broker_transport_options
    assert options["master_name"] == "mill"
    assert options["sentinel_kwargs"]["password"] == "secret-two"
    assert options["sentinel_kwargs"]["socket_timeout"] == options["socket_timeout"]
    # What Flower's page of a worker's configuration shows.
    assert "secret" not in str(app.conf.table(with_defaults=False, censored=True))
    assert {"secret-one", "secret-two"} <= set(secrets_of(settings))


def test_a_producer_asks_a_sentinel_twice_and_a_worker_more_often() -> None:
    settings = Settings.load(broker_url=SENTINELS, broker_master="mill")
    tokens = Tokens(settings)
    asked = tokens._app.conf.broker_transport_options["sentinel_kwargs"]
    assert asked["retry"].get_retries() == 1
    tokens.close()
    options = make_app(settings).conf.broker_transport_options
    assert "retry" not in options["sentinel_kwargs"]


def test_options_of_sentinel_go_to_no_other_broker() -> None:
    options = make_app(Settings.load(broker_url="redis://h:1/0", broker_master="mill")).conf
    assert "master_name" not in options.broker_transport_options


def test_tls_goes_to_the_sentinels_too(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    urls = SENTINELS.replace("sentinel://", "sentinels://")
    app = make_app(Settings.load(broker_url=urls, broker_master="mill", broker_ca=authority))
    assert app.conf.broker_url == SENTINELS, "the name that Celery knows"
    checked = {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_ca_certs": str(authority),
    }
    assert app.conf.broker_use_ssl == checked
    asked = app.conf.broker_transport_options["sentinel_kwargs"]
    assert asked.items() >= {"ssl": True, **checked}.items()


def test_nobody_waits_for_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", pauses.append)
    tokens = Tokens(Settings.load(broker_url="redis://127.0.0.1:1/0"))
    with pytest.raises(BrokerError):
        tokens.publish("default")
    tokens.close()
    assert pauses == []
