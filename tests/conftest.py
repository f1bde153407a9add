"""What every test runs under: eight fake CPU devices, no silent broadcasting between ranks, no network.

The environment is set before jax is first imported, and inherited by the commands that tests start.
"""
import os
import socket
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Programs compiled by an earlier run are read back; compiling is most of the tests' time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), f"kfjax-tests-{os.getuid()}")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Connections leave this machine from no test; loopback and Unix sockets stay open."""

    def guarded(connect):
        def call(sock, address):
            host = address[0] if isinstance(address, tuple) else ""
            if sock.family != socket.AF_UNIX and host not in ("127.0.0.1", "::1", "localhost"):
                raise AssertionError(f"a test opened a connection to {address!r}; tests run without a network")
            return connect(sock, address)

        return call

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
