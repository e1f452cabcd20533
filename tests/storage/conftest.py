"""Servers for the tests of storage: real S3 (moto), a counting static server, a proxy that breaks answers.

They live as long as the session, so that their threads stand before the watch on what a test leaves behind.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from types import ModuleType

pytest.register_assert_rewrite("conformance")


def _load(name: str) -> ModuleType:
    """Load a module beside this file: importlib mode has no packages of tests."""
    spec = importlib.util.spec_from_file_location(f"storage_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bucket_folder(tmp_path_factory):
    """The folder that the static server serves; its subfolder ``bkt`` is a bucket."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "bkt").mkdir()
    return folder


@pytest.fixture(scope="session")
def _static_server(bucket_folder):
    server = _load("staticserver").StaticServer(bucket_folder).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def fault_proxy():
    """The class of the proxy, for tests that need several."""
    return _load("faultproxy").FaultProxy


@pytest.fixture(scope="session")
def _proxy(_static_server, fault_proxy):
    proxy = fault_proxy(("127.0.0.1", _static_server.port)).start()
    yield proxy
    proxy.stop()


@pytest.fixture
def static(_static_server):
    """The static server, its log empty."""
    _static_server.key = ""
    _static_server.clear()
    return _static_server


@pytest.fixture
def proxy(_proxy, static):
    """The proxy in front of the static server, without faults."""
    _proxy.clear()
    return _proxy


@pytest.fixture
def web():
    """Start web servers, each with what it answers to a path: status, headers, body."""
    kind, started = _load("webserver").Web, []

    def web(answer):
        started.append(kind(answer))
        return started[-1]

    yield web
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def moto():
    """Endpoint of a real S3 server, with the bucket ``bkt``."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="bkt")
    client.close()
    yield endpoint
    server.stop()


@pytest.fixture(scope="session")
def _s3_proxy(moto, fault_proxy):
    host, _, port = moto.removeprefix("http://").partition(":")
    proxy = fault_proxy((host, int(port))).start()
    yield proxy
    proxy.stop()


@pytest.fixture
def s3(_s3_proxy):
    """A proxy that counts in front of the real S3 server, without faults."""
    _s3_proxy.clear()
    return _s3_proxy


@pytest.fixture(scope="session")
def put(moto):
    """Put an object into the bucket ``bkt``."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=moto, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    yield lambda key, body: client.put_object(Bucket="bkt", Key=key, Body=body)
    client.close()


@pytest.fixture(scope="module")
def places(put, moto, _static_server):
    """Puts files of the conformance suite to the places it reads them from."""
    from conformance import Places

    made = Places(put, moto, _static_server)
    yield made
    made.clear()


@pytest.fixture(scope="session")
def write_array():
    """Write an array with TensorStore; returns nothing."""

    def write(kvstore, values, *, form="zarr3", chunks, shards=None, crc=True, stored=None, order=None):
        import tensorstore as ts

        grid, dtype = list(chunks), stored or values.dtype.name
        if form == "zarr3":
            codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
            codecs += [{"name": "crc32c"}] if crc else []
            if shards:
                inner = {"chunk_shape": grid, "codecs": codecs}
                codecs, grid = [{"name": "sharding_indexed", "configuration": inner}], list(shards)
            metadata = {
                "shape": list(values.shape),
                "data_type": dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": grid}},
                "codecs": codecs,
            }
        else:
            small = stored or values.dtype.str
            metadata = {"shape": list(values.shape), "dtype": small, "chunks": grid, "compressor": None}
        spec = {
            "driver": form,
            "kvstore": kvstore,
            "metadata": metadata,
            "create": True,
            "delete_existing": True,
        }
        context = ts.Context(
            {"aws_credentials": {"type": "anonymous"}, "cache_pool": {"total_bytes_limit": 0}}
        )
        # Chunks of nothing but the fill value are left out unless asked for; these tests count chunks.
        spec["store_data_equal_to_fill_value"] = True
        ts.open(spec, context=context).result(timeout=60).write(np.ascontiguousarray(values)).result(
            timeout=60
        )

    return write
