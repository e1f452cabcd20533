"""How many bytes this process has received over the network, also of answers that are not complete.

In: nothing; the kernel counts the bytes of each TCP connection. Out: a running total. Never touches a connection
beyond asking for its counter. TensorStore tells of an answer only when all of it is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import sys

from .processes import PerProcess

__all__ = ["LEAST", "received"]

LEAST = 64 << 10  # bytes that must arrive within a store's time-out, or its reads fail: less is a trickle
HANDSHAKE = 16 << 10  # first bytes of a connection, which do not count: TLS takes them before any answer
TCP_INFO = 11
INFO_BYTES = 136  # of Linux' struct tcp_info, up to the counter and with it
COUNTER = 128


class _Connections:
    """The total, and what each connection had received at the last look, by inode."""

    def __init__(self) -> None:
        self.total = 0
        self.known: dict[int, int] = {}

    def look(self) -> int:
        found = {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found[status.st_ino] = max(_received_by(int(name)) - HANDSHAKE, 0)
        self.total += sum(max(count - self.known.get(inode, 0), 0) for inode, count in found.items())
        self.known = found
        return self.total


def _received_by(descriptor: int) -> int:
    """Return the bytes that a TCP connection has received; 0 for other descriptors."""
    # Not `socket.socket(fileno=…)`: with a default timeout set it would make the connection non-blocking.
    info, size = ctypes.create_string_buffer(INFO_BYTES), ctypes.c_uint(INFO_BYTES)
    failed = _LIBRARY.getsockopt(descriptor, socket.IPPROTO_TCP, TCP_INFO, info, ctypes.byref(size))
    known = not failed and size.value == INFO_BYTES
    return int.from_bytes(info.raw[COUNTER:], sys.byteorder) if known else 0


_LIBRARY = ctypes.CDLL(None)
_CONNECTIONS: PerProcess[_Connections] = PerProcess()


def received() -> int:
    """Return the bytes received over all TCP connections of this process since the first call; 0 except on Linux.

    The connections of one store cannot be told from others: traffic of another library counts too.

    Examples
    --------
    >>> received() <= received()
    True
    """
    return _CONNECTIONS.get(_Connections).look() if sys.platform == "linux" else 0
