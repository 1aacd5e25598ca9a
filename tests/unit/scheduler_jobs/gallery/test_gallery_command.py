"""`gallery`: what it refuses before it listens."""

import socket

import pytest

from imagemill.scheduler_jobs.web_server import address, is_loopback, names_of


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_reach_it_only_if_told_so(at_home, host):
    answer = at_home("gallery", "--host", host)
    assert answer.code == 2
    assert "--allow-remote" in answer.err
    assert names_of(host) is None


def test_every_address_is_named_and_no_empty_text(at_home):
    answer = at_home("gallery", "--host", "", "--allow-remote")
    assert answer.code == 2
    assert "'--host': an empty text" in answer.err
    assert names_of("") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_may_always(host):
    assert is_loopback(host)
    assert host in names_of(host)


def test_a_port_that_is_taken_is_one_line(at_home):
    (at_home.home / "objects").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = at_home("gallery", "--port", taken.getsockname()[1])
    assert answer.code == 2
    assert "try another --port" in answer.err
    assert answer.out == ""


def test_an_address_of_ipv6_has_brackets():
    assert address("::1", 80, "t") == "http://[::1]:80/?token=t"
