"""Signatures of webhooks, by the specification's own example."""

import base64

import pytest

from imagemill.db.errors import SettingsError
from imagemill.scheduler_jobs.notifications.signature import read_secrets, signed_headers


def test_the_example_of_the_specification() -> None:
    """The values of the test of its reference libraries (`standard-webhooks`, `libraries/`)."""
    keys = read_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(
        keys,
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def secret(count: int) -> str:
    return "whsec_" + base64.b64encode(b"x" * count).decode()


@pytest.mark.parametrize("text", ["hunter2", "whsec_hunter2", "whsec_!!!!", secret(23), secret(65)])
def test_what_is_no_secret_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_secrets(f"{secret(24)} {text}")
    assert text not in str(refused.value)
    assert len(read_secrets(f"{secret(24)}  {secret(64)}\n")) == 2
