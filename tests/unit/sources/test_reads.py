"""Bytes that this process has received, as the kernel counts them."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from windowloader.sources.reads import HANDSHAKE, received

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux counts bytes by connection")


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield near, far


def send(pair, count):
    near, far = pair
    far.sendall(bytes(count))
    while count:
        count -= len(near.recv(count))


def test_bytes_count_as_they_arrive_but_for_the_first_of_a_connection(pair):
    before = received()
    send(pair, HANDSHAKE)
    assert received() - before == 0
    send(pair, 1000)
    assert received() - before == 1000
    send(pair, 500)
    for end in pair:
        end.close()
    assert received() - before >= 1000  # never less than before


def test_connections_stay_as_they_are(pair):
    socket.setdefaulttimeout(1.0)
    try:
        received()
    finally:
        socket.setdefaulttimeout(None)
    assert all(os.get_blocking(end.fileno()) for end in pair)
