"""Hosts of the URLs under which clients ask. No server."""

import pytest

from distill.cascade.gate import host_of, hosts_allowed


@pytest.mark.parametrize(
    "header, host",
    [
        ("localhost", "localhost"),
        ("LOCALHOST:8000", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1.evil.example:80", "127.0.0.1.evil.example"),
        ("", ""),
    ],
)
def test_a_host_is_its_name_without_the_port(header, host):
    assert host_of(header) == host


def test_own_names_are_allowed_and_those_that_are_given():
    hosts = hosts_allowed("10.0.0.7", ["API.example.org"])
    assert hosts == {"localhost", "127.0.0.1", "::1", "10.0.0.7", "api.example.org"}
