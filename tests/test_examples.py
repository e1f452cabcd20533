"""The examples of the documentation run as scripts, each in a process and a folder of its own.

The torchrun example, with a run that is killed, is tested in tests/distributed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
DATA = Path(os.environ.get("WINDOWLOADER_DATA", Path(__file__).parents[2] / "shared" / "data"))

# Runs the Lightning example to its end; then again, stopped in the middle of a stage, and again to its end.
RESUMED = """
import runpy, sys
sys.path.insert(0, str(sys.argv[1]))
import lightning, torch

script = runpy.run_path(sys.argv[1] + "/era5_lightning.py")
script["main"](folder="whole")
save = lightning.Trainer.save_checkpoint

def save_or_stop(trainer, path, *arguments, **options):
    save(trainer, path, *arguments, **options)
    if str(path).endswith("horizon-4/last.ckpt") and trainer.global_step == 10:
        raise RuntimeError("stopped")

lightning.Trainer.save_checkpoint = save_or_stop
try:
    script["main"](folder="stopped")
except RuntimeError as error:
    print(error)
lightning.Trainer.save_checkpoint = save
script["main"](folder="stopped")
states = [torch.load(f"{run}/horizon-12/last.ckpt", weights_only=False) for run in ("whole", "stopped")]
print("equal", all(torch.equal(*pair) for pair in zip(*(state["state_dict"].values() for state in states))))
"""


@pytest.fixture
def run(tmp_path):
    """Run Python with arguments in an empty folder; return what it printed."""

    def run(*arguments: object, **environment: str) -> str:
        # Passive threads: with a core for each, OpenMP's spinning takes the time of the threads that make batches.
        limits = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **limits, **environment},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def errors(printed: str) -> list[float]:
    return [
        float(value) for value in re.findall(r"^epoch \d+: (?:test error |loss )?([\d.]+)", printed, re.M)
    ]


def test_examples_are_short():
    long = {path.name: n for path in EXAMPLES.glob("*.py") if (n := len(path.read_text().splitlines())) >= 60}
    assert set(long) <= {"stand_ins.py"}, long


@pytest.mark.campaign
def test_graph_wavenet_on_an_hdf5_table(run):
    pytest.importorskip("h5py")
    first, last = errors(run(EXAMPLES / "metr_la.py"))
    assert last < first


@pytest.mark.campaign  # as .ci/run does: tens of seconds
def test_weather_under_lightning_ends_alike_when_it_was_stopped(run):
    pytest.importorskip("lightning")
    printed = run("-c", RESUMED, EXAMPLES)
    told = re.findall(r"^(horizon \d+: \d+ steps|stopped|equal \w+)$", printed, re.M)
    stages = [f"horizon {horizon}: 15 steps" for horizon in (1, 4, 12)]
    assert told == [*stages, stages[0], "stopped", *stages, "equal True"], printed


@pytest.mark.campaign
def test_meters_with_weather_ahead(run):
    pytest.importorskip("pyarrow")
    printed = run(EXAMPLES / "meters.py")
    assert printed.startswith("200 meters")
    assert float(re.search(r"([\d.]+)% off", printed)[1]) < 20


@pytest.mark.campaign
def test_daily_mobility_graphs(run):
    england = DATA / "pgt" / "england_covid.json"
    found = errors(run(EXAMPLES / "mobility.py", *[england] * england.exists()))
    assert found[-1] < found[0]


@pytest.mark.campaign
def test_a_stream_from_s3_stopped_and_gone_on(run, moto_bucket, tmp_path):
    state = tmp_path / "state.json"
    printed = run(EXAMPLES / "s3_stream.py", "s3://traffic/speeds.zarr", state, **moto_bucket)
    assert "tier       streamed" in printed
    assert errors(printed)[0] < 0.8
    kept = json.loads(state.read_text())
    assert kept["step"] == 20
    printed = run(EXAMPLES / "s3_stream.py", "s3://traffic/speeds.zarr", state, **moto_bucket)
    assert "epoch      0 from step 20: 8 steps" in printed


@pytest.mark.campaign
def test_a_pgt_signal_cut_again(run):
    pytest.importorskip("torch_geometric")
    printed = run(EXAMPLES / "pgt_signal.py")
    assert "300 steps × 20 nodes" in printed
    assert float(re.search(r"loss ([\d.]+);", printed)[1]) < 1


@pytest.fixture(scope="session")
def _moto():
    pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto_bucket(_moto):
    """A bucket with speeds.zarr on a real S3 server; the environment that leads there."""
    import boto3
    import zarr

    speeds = np.sin(np.arange(2000)[:, None] / 20 + np.arange(8)).astype("f4")
    store: dict = {}
    zarr.create_array(store, data=speeds, chunks=(100, 8))
    client = boto3.client(
        "s3", endpoint_url=_moto, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="traffic")
    for key, value in store.items():
        client.put_object(Bucket="traffic", Key=f"speeds.zarr/{key}", Body=value.to_bytes())
    client.close()
    return {
        "AWS_ENDPOINT_URL": _moto,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
    }
