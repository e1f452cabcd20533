"""Holds files in emulators of Google's and Azure's storage to xarray's reading; run in a process of its own.

``python emulators.py google BINARY`` or ``azure BINARY``. Where Google's store is holds for a whole process, and adlfs
keeps threads. Prints ``done``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from conformance import Expected, by_xarray, holds
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stored import FORMATS, KINDS, plan_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # azurite's own
PLAIN = ("packed_with_mark", "two_marks", "unsigned", "labels", "time_units", "calendars", "two_variables", "groups",
         "chunks", "filters")  # fmt: skip


@contextlib.contextmanager
def server(command: list[str], port: int) -> Iterator[None]:
    """Run a server until the end of the block; it is ready when its port answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def conform(put: Callable[[str, bytes], Any], root: str, options: dict[str, Any]) -> None:
    """Hold one file of each format and kind, and bare arrays, to xarray and NumPy."""
    number = iter(range(10**6))

    def place(path: Path) -> str:
        name = f"{next(number)}/{path.name}"
        for one in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
            put(name if one == path else f"{name}/{one.relative_to(path)}", one.read_bytes())
        return f"{root}/{name}"

    for form in ("netcdf4", "hdf5", "zarr2", "zarr3"):
        for kind in PLAIN:
            if KINDS[kind] not in FORMATS[form].lacks:
                one_file(form, kind, place, options)
    with tempfile.TemporaryDirectory() as folder:
        values = np.arange(60, dtype="f4").reshape(20, 3)
        np.save(Path(folder) / "a.npy", values)
        holds(place(Path(folder) / "a.npy"), Expected(values[..., None].astype("f8"), ("value",)), **options)


def one_file(form: str, kind: str, place: Callable[[Path], str], options: dict[str, Any]) -> None:
    """Draw a file, put it there, and hold it to xarray's reading of the local copy."""

    @settings(
        max_examples=1, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(data=st.data())
    def check(data: Any) -> None:
        plan = plan_for(data.draw, form, KINDS[kind])
        with tempfile.TemporaryDirectory() as folder:
            path = FORMATS[form].write(plan, Path(folder))
            right = None
            for name in plan.ask:
                array = FORMATS[form].read(path, plan, name)
                part = by_xarray(array, array.dims[0], name=f"{plan.group}/{name}" if plan.group else name)
                right = part if right is None else right + part
            more = {"variables": list(right.features)} if plan.by_name else {}
            holds(place(path), right, **more, **options)

    check()


def google(binary: str) -> None:
    """Run fake-gcs-server, and read by TensorStore's own driver."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with server([*command, "-public-host", f"127.0.0.1:{port}"], port):
        os.environ |= {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "x", "STORAGE_EMULATOR_HOST": url}

        def post(path: str, body: bytes, kind: str) -> None:
            urllib.request.urlopen(urllib.request.Request(url + path, body, {"Content-Type": kind})).read()

        post("/storage/v1/b?project=p", json.dumps({"name": "bkt"}).encode(), "application/json")
        raw = "application/octet-stream"
        conform(
            lambda key, body: post(f"/upload/storage/v1/b/bkt/o?uploadType=media&name={key}", body, raw),
            "gs://bkt",
            {},
        )


def azure(binary: str) -> None:
    """Run azurite, and read by fsspec's adlfs."""
    import fsspec

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            binary,
            "--location",
            folder,
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            str(port),
            "--silent",
        ]
        with server([*command, "--skipApiVersionCheck", "--loose"], port):
            login = (
                f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};"
                f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
            )
            system = fsspec.filesystem("abfs", connection_string=login)
            system.mkdir("bkt")
            options = {"storage_options": {"connection_string": login}}
            conform(lambda key, body: system.pipe(f"bkt/{key}", body), "abfs://bkt", options)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"google": google, "azure": azure}[sys.argv[1]](sys.argv[2])
    print("done")
