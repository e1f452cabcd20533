"""Every fault, on every store, at every moment: the true batches or the right error, and nothing else.

Each case has a proxy of its own in front of a real S3 server (moto) or a static web server. Each batch that is
delivered is compared with the array. After an error the server is well again (connections that are stalled stay so):
then the same loader, and a new one in the same process that loads the state, must deliver the true batches.

``FAULTS=zarr3-s3-stall`` in the environment runs only the cases whose names contain that text (``|`` between several).
"""

from __future__ import annotations

import collections
import itertools
import os
import re
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import (
    CorruptDataError,
    CredentialsError,
    SourceError,
    SourceNotFoundError,
    SourceTimeoutError,
    WindowLoaderError,
)

ROWS, CHUNK, SHARD, MISSING = 400, 20, 40, -1.0
WIDTHS = {"narrow": 6, "wide": 256}
SPEC = wl.WindowSpec(lookback=3, horizon=2)
LOADER = {"batch_size": 16, "shuffle": True, "seed": 4, "fill": 0.0}
STREAM = {"active_blocks": 3, "reads_ahead": 3}  # 6 of 20 blocks: most are read in the middle of an epoch
EARLY = 3  # batches before a fault in the middle, or before a run is resumed
PATIENCE = 20.0  # seconds without progress where retries decide
LIMIT = 2.0  # where the limit decides; answers are late by more
SECRET = "hush-hush"
GUARD = 150.0  # seconds after which a case hangs: many times what its own limits allow
SIDE_BY_SIDE = 12

STORES = {"zarr3": ".zarr", "shards": ".zarr", "blosc": ".zarr", "npy": ".npy", "hdf5": ".h5", "csv": ".csv", "npz": ".npz"}  # fmt: skip
WHOLE = ("csv", "npz")  # fetched when opened
SUMMED = {"zarr3", "shards", "hdf5", "npz"}  # have checksums
RANGED = {"shards", "npy", "hdf5"}
MOMENTS = ("open", "first", "middle", "next", "resume")
ADVICE = re.compile(
    r"storage_options|[Rr]etries|try again|check|[Pp]ass|Restore|again|Set |write it|fill_missing"
)


@dataclass(frozen=True)
class Fault:
    """What the proxy does, how often, and which errors are right for it (those of "once" too, where it may fail)."""

    does: str
    times: tuple[str, ...]
    errors: tuple[type, ...] = (SourceError,)
    same: bool = False  # whether a lasting one may give the same batches
    once_fails: bool = False  # whether one alone may be an error
    says: str = ""  # what the message must name
    limit: float = PATIENCE


ALL, LASTING, ONCE = ("once", "several", "lasting"), ("lasting",), ("once",)
LATE = {"errors": (SourceTimeoutError,), "limit": LIMIT}
FAULTS = {
    "500": Fault("500", ALL),
    "503": Fault("503", ALL),
    "429": Fault("429", ALL),
    "403": Fault("403", ("once", "lasting"), (CredentialsError,), once_fails=True),
    "404": Fault("404", ("once", "lasting"), (CorruptDataError, SourceNotFoundError), once_fails=True),
    "reset": Fault("reset", ALL),
    "close": Fault("close", ALL),
    "truncate": Fault("truncate:9", ALL, (SourceError, CorruptDataError)),
    "corrupt": Fault("corrupt:-50", ("once", "lasting"), (CorruptDataError,), once_fails=True),
    "stall": Fault("stall", LASTING, **LATE),
    "stalled": Fault("stall", ONCE),
    "trickle": Fault("trickle:2", LASTING, **LATE),
    "trickled": Fault("trickle:2", ONCE),
    "late": Fault("late:3.5", ("once", "lasting"), **LATE, same=True, once_fails=True),
    "later": Fault("late:5", ("several", "lasting"), **LATE, same=True, once_fails=True),
    "held": Fault("hold", ("once", "lasting"), **LATE, once_fails=True),
    "slow": Fault("", LASTING, same=True, errors=(), limit=LIMIT),
    "redirect": Fault("redirect:{here}/moved", LASTING, same=True, says="(?i)redirect"),
    "elsewhere": Fault("redirect:{there}", LASTING, same=True, says="(?i)redirect"),
    "ranges": Fault("whole", LASTING, same=True, says="Range"),
    "refused": Fault("down:999", LASTING),
    "revived": Fault("down:0.5", ONCE),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    store: str
    scheme: str
    fault: str
    times: str
    moment: str
    cache: bool

    def __str__(self) -> str:
        return "-".join(
            [self.store, self.scheme, self.fault, self.times, self.moment, *["cache"] * self.cache]
        )

    @property
    def possible(self) -> bool:
        """Whether the fault can be met there, and told from sound data."""
        if self.store in WHOLE and self.moment not in ("open", "resume"):
            return False
        if self.moment == "next" and (self.cache or self.fault == "slow"):  # what is cached is not read again
            return False
        if self.fault == "corrupt":
            return self.store in SUMMED and (self.moment != "open" or self.store == "npz")
        if self.fault == "ranges":
            return self.store in RANGED and (self.moment != "open" or self.store != "shards")
        return True


def cases() -> list[Case]:
    """Each fault on each store, the scheme, moment and cache taking turns; or those that the environment names."""
    wanted, chosen = os.environ.get("FAULTS", ""), []
    turns = itertools.cycle(range(len(MOMENTS) * 4))
    for (fault, what), store in itertools.product(FAULTS.items(), STORES):
        for times in what.times:
            found = [
                case
                for moment, scheme, cache in itertools.product(MOMENTS, ("http", "s3"), (False, True))
                if (case := Case(store, scheme, fault, times, moment, cache)).possible
            ]
            if wanted:
                chosen += [case for case in found if any(text in str(case) for text in wanted.split("|"))]
            elif found:
                turn = next(turns) * 7  # prime to the number of moments, schemes and caches
                chosen += [found[turn % len(found)], found[(turn + len(found) // 2 + 1) % len(found)]]
    return list(dict.fromkeys(chosen))


@dataclass
class Script:
    """Which requests of a case are broken; asked by the proxy."""

    case: Case
    does: str
    armed: bool = False
    hits: int = 0
    served: set[tuple] = field(default_factory=set)
    tries: dict[tuple, int] = field(default_factory=dict)

    def __call__(self, number, method, path, headers):
        key = (path, headers.get("range"))
        data = method == "GET" and not re.search(r"\.z\w+$|\.json$|list-type", path)
        fresh = self.case.moment == "next" and key not in self.served
        self.served.add(key)
        if not self.armed or fresh or not (data or self.case.moment == "open" or self.case.store in WHOLE):
            return None
        if self.does == "whole" and key[1] is None:
            return None
        self.tries[key] = count = self.tries.get(key, 0) + 1
        place = list(self.tries).index(key)
        broken = {
            "once": place == 0 and count == 1,
            "several": place % 2 == 0 and count <= 2,
            "lasting": True,
        }
        if not broken[self.case.times]:
            return None
        self.hits += 1
        return self.does or None


class Trial:
    """One case: what it opens, receives and compares."""

    def __init__(self, case: Case, number: int, proxies, values, order, cache) -> None:
        self.case, self.fault = case, FAULTS[case.fault]
        self.proxy, self.other = proxies
        self.values, self.order, self.cache = values, order, cache
        self.script = Script(case, self.fault.does.format(here=self.proxy.url, there=self.other.url))
        # A limit of its own keeps its requests from those of other cases.
        self.options = {"timeout": self.fault.limit, "retries": 2 if case.times == "lasting" else 6, "request_limit": 8 + number}  # fmt: skip
        if case.scheme == "s3":
            self.options |= {"endpoint_url": self.proxy.url, "key": "k", "secret": SECRET}
        else:
            self.options |= {"headers": {"X-Token": SECRET}}
        self.made: list[wl.WindowLoader] = []

    def open(self):
        case = self.case
        root = "s3://bkt" if case.scheme == "s3" else f"{self.proxy.url}/bkt"
        url = f"{root}/{width_of(case)}/{case.store}{STORES[case.store]}"
        self.made.append(loader_of(url, case.store, storage_options=self.options, cache_dir=self.cache))
        return self.made[-1]

    def pass_of(self, loader, begin=0, *, after=None, call=None) -> None:
        """Run through the rest of an epoch, comparing all that is delivered; ``call`` after some batches."""
        expected, self.epoch, self.received = self.order[loader.epoch], loader.epoch, begin
        for number, batch in enumerate(loader, 1):
            check(batch, self.values)
            end = self.received + len(batch.starts)
            assert np.array_equal(batch.starts, expected[self.received : end]), "windows out of order"
            self.received = end
            if number == after:
                call()
        assert self.received == len(expected), f"{self.received} of {len(expected)} windows"

    def arm(self) -> None:
        self.script.armed = True
        if self.case.fault == "slow":
            self.script.hits, self.proxy.line = 1, 96 << 10

    def begin(self):
        """Yield the loader as soon as there is one, and run it under the fault."""
        moment = self.case.moment
        if moment == "open":
            self.arm()
        self.loader, self.start = self.open(), 0
        if moment == "resume":
            batches = iter(self.loader)
            self.start = sum(len(next(batches).starts) for _ in range(EARLY))
            state = self.loader.state_dict()
            self.close()
            self.loader = None
            if self.case.store in WHOLE:
                self.arm()
            self.loader = self.open()
            self.loader.load_state_dict(state)
        if moment != "middle":
            self.arm()
        self.pass_of(self.loader, self.start, after=EARLY, call=self.arm)
        self.start = 0
        self.pass_of(self.loader)

    def well(self) -> None:
        self.script.armed, self.proxy.line = False, 0.0
        if self.case.fault == "refused":
            self.proxy.revive()

    def run(self) -> str:
        self.loader = error = None
        self.proxy.clear(self.script)
        try:
            self.begin()
        except WindowLoaderError as raised:
            error = raised
        assert self.script.hits, "harness: the fault was never met"
        assert not any(SECRET in str(entry.headers) for entry in self.other.log), "own headers sent elsewhere"
        if error is None:
            assert self.case.times != "lasting" or self.fault.same, "a lasting fault was not noticed"
            return "same"
        self.judge(error)
        self.well()
        self.again()
        return "right error"

    def judge(self, error: WindowLoaderError) -> None:
        assert self.case.times == "lasting" or self.fault.once_fails, f"a passing fault failed: {error!r}"
        text = f"{error}"
        assert type(error) in self.fault.errors, f"wrong class: {error!r}"
        assert f"{self.case.store}{STORES[self.case.store]}" in text, f"store not named: {text}"
        assert ADVICE.search(text), f"no advice: {text}"
        assert re.search(self.fault.says, text), f"does not say {self.fault.says}: {text}"
        assert SECRET not in text, f"secret shown: {text}"
        if self.case.moment == "next":
            assert self.epoch == 1, "the next epoch's fault broke this one"

    def again(self) -> None:
        """With the server well: the same loader, and a new one from where the first broke off."""
        state = received = None
        if self.loader is not None:
            state, received, epoch = self.loader.state_dict(), self.received, self.epoch
            self.stage(
                "the same loader", self.pass_of, self.loader, self.start, after=2, call=self.proxy.release
            )
        new = self.stage("a new loader", self.open)
        if state is not None:
            new.load_state_dict(state)
            assert new.epoch == epoch
        self.stage("a new loader", self.pass_of, new, received or 0)
        self.proxy.release()
        while self.proxy.owed:  # late answers come while others' batches are made
            for loader in filter(None, (self.loader, new)):
                loader.set_epoch(1 - loader.epoch)
                self.stage("late answers", self.pass_of, loader)

    def stage(self, name, run, *arguments, **options):
        try:
            return run(*arguments, **options)
        except Exception as error:
            text = f"{error!r}".partition("\\nassert ")[0]
            raise AssertionError(f"after it, {name}: {text}") from error

    def close(self) -> None:
        for loader in self.made:
            loader.close()
            for variable in loader.windows.series.variables:
                variable.source.close()
        self.made.clear()


def width_of(case) -> str:
    """Folder of the array: a slow line needs chunks that take it long."""
    return "wide" if case.fault == "slow" else "narrow"


def loader_of(url, store, **options):
    header = {"header": True} if store == "csv" else {}
    series = wl.open(url, missing=MISSING, **options, **header)
    return wl.WindowLoader(wl.WindowSet(series, SPEC), **LOADER, **({} if store in WHOLE else STREAM))


def check(batch, values) -> None:
    raw = values[batch.starts[:, None] + np.arange(SPEC.span)][..., None]
    seen = raw != MISSING
    both, masks = np.where(seen, raw, 0), (batch.input_mask, batch.target_mask)
    assert np.array_equal(np.concatenate([batch.inputs, batch.targets], axis=1), both), "WRONG VALUES"
    assert np.array_equal(np.concatenate(masks, axis=1), seen), "WRONG MASKS"


def write(folder, values, write_array) -> None:
    """Write an array as each store of the matrix."""
    import h5py
    import zarr

    whole = (CHUNK, values.shape[1])
    write_array({"driver": "file", "path": f"{folder}/zarr3.zarr/"}, values, chunks=whole)
    write_array(
        {"driver": "file", "path": f"{folder}/shards.zarr/"}, values, chunks=whole, shards=(SHARD, whole[1])
    )
    zarr.create_array(f"{folder}/blosc.zarr", data=values, chunks=whole, zarr_format=2)
    np.save(folder / "npy.npy", values)
    np.savez(folder / "npz.npz", values)
    with h5py.File(folder / "hdf5.h5", "w") as file:
        file.create_dataset("speed", data=values, chunks=whole, fletcher32=True)
    names = ",".join(f"sensor {number}" for number in range(values.shape[1]))
    np.savetxt(folder / "csv.csv", values, "%.9g", delimiter=",", header=names, comments="")


@pytest.fixture(scope="module")
def stored(bucket_folder, put, write_array):
    """Write both arrays as each store, into both servers; returns the arrays."""
    random, found, bucket = np.random.default_rng(5), {}, bucket_folder / "bkt"
    for width, nodes in WIDTHS.items():
        values = found[width] = random.integers(1, 1 << 15, (ROWS, nodes)).astype("f4") / 8
        values[random.random(values.shape) < 0.05] = MISSING
        (bucket / width).mkdir()
        write(bucket / width, values, write_array)
        for file in filter(os.path.isfile, (bucket / width).rglob("*")):
            put(str(file.relative_to(bucket)), file.read_bytes())
    return found


def orders(static, stored, folder) -> dict[tuple, list[np.ndarray]]:
    """Starts of the first epochs, from a server that is well; by store, width, and whether there is a cache."""
    found = {}
    for store, width, cache in itertools.product(STORES, stored, (False, True)):
        url = f"{static.url}/bkt/{width}/{store}{STORES[store]}"
        with loader_of(url, store, cache_dir=folder / f"{width}-{store}" if cache else None) as loader:
            epochs = found[store, width, cache] = []
            for _ in range(2):
                batches = list(loader)
                for batch in batches:
                    check(batch, stored[width])
                epochs.append(np.concatenate([batch.starts for batch in batches]))
                assert np.array_equal(np.sort(epochs[-1]), np.arange(ROWS - SPEC.span + 1))
    return found


def outcome(case: Case, number: int, trial) -> tuple[str, str]:
    """Run a case with a guard: "same", "right error", or what else it was, and the details."""
    found = []

    def run() -> None:
        try:
            found.append((trial.run(), ""))
        except BaseException as error:
            text = f"{error}" if isinstance(error, AssertionError) else traceback.format_exc(limit=-2)
            found.append(("neither", text.partition("\nassert ")[0].strip()))

    thread = threading.Thread(target=run, name=f"fault-{number}", daemon=True)
    thread.start()
    thread.join(GUARD)
    if thread.is_alive():
        frames = "".join(traceback.format_stack(sys._current_frames()[thread.ident])[-4:])
        found.append(("neither", f"hangs for {GUARD:.0f} s at\n{frames}"))
        trial.proxy.clear()
        thread.join(GUARD)
    try:
        trial.close()
    except Exception as error:
        found.insert(0, ("neither", f"close: {error!r}"))
    return found[0]


def table(results: dict[Case, tuple[str, str]]) -> str:
    """Count outcomes by fault, and list what is neither."""
    lines = [f"{'fault':12}{'same':>7}{'right error':>13}{'neither':>9}"]
    counts = collections.Counter((case.fault, found) for case, (found, _) in results.items())
    total = collections.Counter(found for found, _ in results.values())
    for fault in [*FAULTS, "all"]:
        row = [
            total[kind] if fault == "all" else counts[fault, kind]
            for kind in ("same", "right error", "neither")
        ]
        if any(row):
            lines.append(f"{fault:12}{row[0]:7}{row[1]:13}{row[2]:9}")
    lines += [f"\n{case}: {why}" for case, (found, why) in results.items() if found == "neither"]
    return "\n".join(lines)


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_same_batches_or_the_right_error(static, moto, fault_proxy, stored, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("windowloader.streaming.grid._BYTES", 1)  # else one block would hold everything
    order, chosen = orders(static, stored, tmp_path), cases()
    host, _, port = moto.removeprefix("http://").partition(":")
    upstreams = {"http": ("127.0.0.1", static.port), "s3": (host, int(port))}

    def one(number: int) -> tuple[str, str]:
        case = chosen[number]
        proxies = [fault_proxy(upstreams[case.scheme]).start() for _ in range(2)]
        width = width_of(case)
        folder = tmp_path / str(number) if case.cache else None
        trial = Trial(case, number, proxies, stored[width], order[case.store, width, case.cache], folder)
        try:
            return outcome(case, number, trial)
        finally:
            for proxy in proxies:
                proxy.stop()

    begun = time.monotonic()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        results = dict(zip(chosen, pool.map(one, range(len(chosen))), strict=True))
    report = table(results)
    with capsys.disabled():
        print(f"\n{len(results)} cases in {time.monotonic() - begun:.0f} s\n{report}")
    wrong = [str(case) for case, (found, _) in results.items() if found == "neither"]
    assert wrong == []
