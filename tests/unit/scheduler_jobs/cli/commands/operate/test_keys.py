"""`keys`, and what `serve` refuses before it listens."""

import socket

import pytest


def test_a_key_is_shown_once(at_home):
    assert "there are no keys" in at_home("keys").out
    made = at_home("keys", "add", "alice", "--images-a-day", 5, "--open-images", 2)
    secret = made.out.strip()
    assert secret.startswith("imk_")
    assert "this once" in made.err
    shown = at_home("keys")
    assert secret not in shown.out + shown.err
    assert shown.out.splitlines()[1].split()[:4] == ["alice", "submit", "5", "2"]
    (key,) = at_home("keys", "--json").json["api_keys"]
    assert (key["api_key"], key["role"], key["images_a_day"]) == ("alice", "submit", 5)
    assert "secret" not in key
    assert "hash" not in key


def test_a_key_is_revoked_once_and_its_name_is_gone(at_home):
    assert at_home("keys", "add", "bob", "--role", "read", "--json").json["role"] == "read"
    assert at_home("keys", "revoke", "bob").out == "bob is revoked\n"
    assert at_home("keys", "revoke", "bob", "--json").json == {"api_key": "bob", "revoked": False}
    again = at_home("keys", "add", "bob")
    assert again.code == 2
    assert "names are not used again" in again.err


@pytest.mark.parametrize("name", ["-a", "a b", "a" * 65, "ä", "a/b"])
def test_a_name_that_is_none(at_home, name):
    answer = at_home("keys", "add", "--", name)
    assert answer.code == 2
    assert "a name is letters" in answer.err


def test_an_unknown_key_is_one_line(at_home):
    answer = at_home("keys", "revoke", "nobody")
    assert answer.code == 2
    assert "no key 'nobody'; `imagemill keys` lists them" in answer.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_without_keys_other_machines_are_not_served(at_home, host):
    answer = at_home("serve", "--host", host)
    assert answer.code == 2
    assert "there are no keys" in answer.err


def test_a_port_that_is_taken_is_one_line(at_home):
    (at_home.home / "objects").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = at_home("serve", "--port", port)
        metrics = at_home("serve", "--port", 0, "--metrics-port", port)
    assert (answer.code, metrics.code) == (2, 2)
    assert "try another --port" in answer.err
    assert "each process on a machine needs a port of its own (--metrics-port)" in metrics.err
