"""`rediss://`: whom a client believes. A real Valkey, with TLS in front of it."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imagemill.db.broker.wake_ups import Tokens, make_app
from imagemill.db.errors import BrokerError, SettingsError
from imagemill.db.settings import Settings
from tests.helpers.servers.tls_proxy import Authority, TlsProxy
from tests.helpers.servers.valkey import Valkey
from tests.integration.workers import Plant, eventually, planted


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "foreign")


def over_tls(plain: str, proxy: TlsProxy, options: str = "") -> str:
    parts = urlsplit(plain)
    return f"rediss://:{parts.password}@127.0.0.1:{proxy.port}{parts.path}{options}"


def front(valkey: Valkey, certificate: tuple[Path, Path]) -> TlsProxy:
    port = urlsplit(valkey.url).port
    assert port is not None
    return TlsProxy(port, *certificate)


def send_one(url: str, authority: Path | None) -> int:
    """Publish a token and count those that wait."""
    tokens = Tokens(Settings.load(broker_url=url, broker_ca=authority))
    try:
        tokens.publish("default")
        return tokens.waiting("default")
    finally:
        tokens.close()


def test_the_right_certificate_is_believed(
    valkey_server: Valkey, broker_url: str, authority: Authority
) -> None:
    with front(valkey_server, authority.certificate("127.0.0.1")) as proxy:
        assert send_one(over_tls(broker_url, proxy), authority.file) == 1
        assert proxy.accepted


@pytest.mark.parametrize("case", ["no authority", "foreign authority", "another host's"])
def test_a_wrong_certificate_is_refused(
    valkey_server: Valkey, broker_url: str, authority: Authority, foreign: Authority, case: str
) -> None:
    trusted = {"no authority": None}.get(case, authority.file)
    signer = foreign if case == "foreign authority" else authority
    address = "127.0.0.2" if case == "another host's" else "127.0.0.1"
    with front(valkey_server, signer.certificate(address)) as proxy:
        url = over_tls(broker_url, proxy)
        with pytest.raises(BrokerError, match=r"(?i)certificate") as caught:
            send_one(url, trusted)
        assert str(urlsplit(url).password) not in str(caught.value)
        assert proxy.accepted == 0, "a password was sent to somebody unknown"


def test_only_the_url_turns_it_off(
    valkey_server: Valkey, broker_url: str, authority: Authority, foreign: Authority
) -> None:
    with front(valkey_server, foreign.certificate("127.0.0.2")) as proxy:
        url = over_tls(broker_url, proxy, "?ssl_cert_reqs=none")
        assert send_one(url, authority.file) == 1


@pytest.fixture
def plant(postgres_url: str, tmp_path: Path) -> Iterator[Plant]:
    with planted(postgres_url, tmp_path) as plant:
        yield plant


def test_a_worker_verifies_too(
    plant: Plant, valkey_server: Valkey, broker_url: str, authority: Authority, foreign: Authority
) -> None:
    job = plant.mill.load("job", ["a picture"])
    with (
        front(valkey_server, authority.certificate("127.0.0.1")) as right,
        front(valkey_server, foreign.certificate("127.0.0.1")) as wrong,
    ):
        plant.environment["IMAGEMILL_BROKER_CA"] = str(authority.file)
        deceived = plant.worker(broker_url=over_tls(broker_url, wrong))
        assert eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in deceived.said), plant.logs
        assert plant.mill.counts(job).ready == 1
        plant.environment["IMAGEMILL_BROKER_URL"] = over_tls(broker_url, right)
        plant.worker()
        plant.dispatcher()
        assert plant.finishes(job), plant.logs
        assert wrong.accepted == 0
        plant.close()


def test_flower_gets_the_same_options(authority: Authority) -> None:
    settings = Settings.load(broker_url="rediss://h:1/0", broker_ca=authority.file)
    assert make_app(settings).conf.broker_use_ssl == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_ca_certs": str(authority.file),
    }
    assert make_app(Settings.load(broker_url="redis://h:1/0")).conf.broker_use_ssl is None


@pytest.mark.parametrize(
    ("url", "authority", "says"),
    [
        ("rediss://h:1/0?ssl_cert_reqs=nobody", None, "required, optional, none"),
        ("rediss://h:1/0", Path("/nowhere.pem"), "there is no file /nowhere.pem"),
    ],
)
def test_a_bad_option_is_one_line(url: str, authority: Path | None, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make_app(Settings.load(broker_url=url, broker_ca=authority))
