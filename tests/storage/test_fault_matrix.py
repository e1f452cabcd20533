"""Every fault, on every store, at every moment: the true batches or the right error, and nothing else.

Each case has a proxy of its own in front of a real S3 server (moto) or a static web server. Each batch that is
delivered is compared with the array, in the order of a run without faults. After an error the server is well again,
though connections that stalled stay stalled: then the same loader, and a new one in the same process that loads the
state, must deliver the true batches. ``FAULTS="zarr3-s3-stall|npz"`` in the environment runs all cases of such names.
"""

from __future__ import annotations

import collections
import faulthandler
import itertools
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

import windowloader as wl
from windowloader import errors

ROWS, CHUNK, SHARD, MISSING = 400, 20, 40, -1.0
WIDTHS = {"narrow": 6, "wide": 256}  # nodes; a slow line needs chunks that take it long
SPEC = wl.WindowSpec(lookback=3, horizon=2)
LOADER = {"batch_size": 16, "shuffle": True, "seed": 4, "fill": 0.0}
STREAM = {"active_blocks": 3, "reads_ahead": 3}  # 6 of 20 blocks: most are read in the middle of an epoch
EARLY = 3  # batches before a fault in the middle, or before a run is resumed
PATIENCE, LIMIT = 20.0, 2.0  # seconds without progress: where retries decide, and where the limit does
GUARD = 120.0  # seconds after which a case hangs: many times what its own limits allow
SIDE_BY_SIDE = 16  # cases: they wait, nearly all of the time
SECRET = "hush-hush"

STORES = {"zarr3": "zarr3.zarr", "shards": "shards.zarr", "blosc": "blosc.zarr", "npy": "values.npy",
          "hdf5": "values.h5", "csv": "values.csv", "npz": "values.npz"}  # fmt: skip
WHOLE, SUMMED, RANGED = {"csv", "npz"}, {"zarr3", "shards", "hdf5", "npz"}, {"shards", "npy", "hdf5"}
MOMENTS = ("open", "first", "middle", "next", "resume")
ADVICE = re.compile("(?i)storage_options|retries|again|check|pass|restore|set |write|copy|read from")


@dataclass(frozen=True)
class Fault:
    """What the proxy does, how often, and which errors are right: of a lasting one, and of one that passes too."""

    does: str
    times: tuple[str, ...]
    raises: tuple[type, ...] = (errors.SourceError,)
    same: bool = False  # whether a lasting one may give the same batches
    fails: bool = False  # whether one that passes may be an error
    says: str = ""  # what the message must name
    limit: float = PATIENCE


ALL, BOTH, LASTING, ONCE = ("once", "several", "lasting"), ("once", "lasting"), ("lasting",), ("once",)
LATE = {"raises": (errors.SourceTimeoutError,), "limit": LIMIT}
MOVED = {"same": True, "raises": (errors.SourceError, errors.CredentialsError), "says": "(?i)redirect"}
FAULTS = {
    **{name: Fault(name, ALL) for name in ("500", "503", "429", "reset", "close")},
    "403": Fault("403", BOTH, (errors.CredentialsError,), fails=True),
    "404": Fault("404", BOTH, (errors.CorruptDataError, errors.SourceNotFoundError), fails=True),
    "truncate": Fault("truncate:9", ALL, (errors.SourceError, errors.CorruptDataError)),
    "corrupt": Fault("corrupt:{byte}", BOTH, (errors.CorruptDataError,), fails=True),
    "stall": Fault("stall", LASTING, **LATE),
    "stalled": Fault("stall", ONCE),
    "trickle": Fault("trickle:2", LASTING, **LATE),
    "trickled": Fault("trickle:2", ONCE),
    "late": Fault("late:3.5", BOTH, same=True, fails=True, **LATE),
    "later": Fault("late:5", ("several", "lasting"), same=True, fails=True, **LATE),
    "held": Fault("hold", BOTH, fails=True, **LATE),
    "slow": Fault("", LASTING, (), same=True, limit=LIMIT),
    "redirect": Fault("redirect:{here}/moved", LASTING, **MOVED),
    "elsewhere": Fault("redirect:{there}", LASTING, **MOVED),
    "ranges": Fault("whole", LASTING, same=True, says="Range"),
    "refused": Fault("down:999", LASTING),
    "revived": Fault("down:0.5", ONCE),
}


def possible(store: str, fault: str, moment: str, cache: str) -> bool:
    """Whether a fault can be met there, and told from sound data."""
    return not (
        (store in WHOLE and moment not in ("open", "resume"))
        or (store == "npy" and moment == "middle" and cache)  # rows so small come at once
        or (moment == "next" and (cache or fault == "slow"))  # what is cached is not read again
        or (fault == "corrupt" and (store not in SUMMED or (moment == "open" and store != "npz")))
        or (fault == "ranges" and (store not in RANGED or (moment == "open" and store == "shards")))
    )


def cases() -> list[str]:
    """Each fault on each store, the scheme, moment and cache taking turns; or those that the environment names."""
    names, chosen, turns = os.environ.get("FAULTS"), [], itertools.count(step=7)
    for (fault, what), store in itertools.product(FAULTS.items(), STORES):
        for times in what.times:
            ways = itertools.product(MOMENTS, ("http", "s3"), ("", "-cache"))
            ways = [way for way in ways if possible(store, fault, way[0], way[2])]
            found = [f"{store}-{scheme}-{fault}-{times}-{moment}{cache}" for moment, scheme, cache in ways]
            if names:
                chosen += [case for case in found if any(name in case for name in names.split("|"))]
            elif found:
                turn, more = next(turns), times != "several" and fault not in ("500", "429")
                chosen += [
                    found[turn % len(found)],
                    *[found[(turn + len(found) // 2 + 1) % len(found)]] * more,
                ]
    return list(dict.fromkeys(chosen))


class Trial:
    """One case: what it opens, receives and compares."""

    def __init__(self, case: str, number: int, proxies, arrays, order, folder) -> None:
        self.store, self.scheme, self.named, self.times, self.moment, *cache = case.split("-")
        self.fault, self.width = FAULTS[self.named], "wide" if self.named == "slow" else "narrow"
        self.values, self.order = arrays[self.width], order[self.store, self.width, bool(cache)]
        self.cache = folder / str(number) if cache else None
        self.proxy, self.other = proxies
        there = self.other.url.replace("127.0.0.1", "localhost")  # another host
        byte = -2000 if self.store == "npz" else 7
        self.does = self.fault.does.format(here=self.proxy.url, there=there, byte=byte)
        self.made, self.kept, self.loader, self.stage = [], [], None, ""
        self.armed, self.hits, self.served, self.tries = False, 0, set(), {}
        retries = 2 if self.times == "lasting" else 6
        # A limit of its own keeps a case's requests from those of others.
        self.options = {"timeout": self.fault.limit, "retries": retries, "request_limit": 8 + number}
        if self.store == "shards" and self.moment == "next":
            self.options["cache_bytes"] = 1000  # else the whole array stays there
        mine = {"endpoint_url": self.proxy.url, "key": "k", "secret": SECRET}
        self.options |= mine if self.scheme == "s3" else {"headers": {"X-Token": SECRET}}

    def script(self, number, method, path, headers):
        """Say what is done to a request; called by the proxy."""
        key = (path, headers.get("range", ""))
        read_again = key in self.served and not key[1].startswith("bytes=-")  # not the index of a shard
        self.served.add(key)
        data = method == "GET" and not re.search(r"\.z\w+$|\.json$|list-type", path)
        if not self.armed or not (data or self.moment == "open" or self.store in WHOLE):
            return None
        if (self.moment == "next" and not read_again) or (self.does == "whole" and not key[1]):
            return None
        self.tries[key] = tries = self.tries.get(key, 0) + 1
        place = list(self.tries).index(key)
        some = {"once": place == 0 and tries == 1, "several": place % 2 == 0 and tries <= 2, "lasting": True}
        self.hits += some[self.times]
        return self.does if self.does and some[self.times] else None

    def open(self):
        root = "s3://bkt" if self.scheme == "s3" else f"{self.proxy.url}/bkt"
        options = {"storage_options": self.options, "cache_dir": self.cache}
        self.made.append(loader_of(f"{root}/{self.width}", self.store, **options))
        return self.made[-1]

    def epoch_of(self, loader, begin=0, *, after=None, call=None) -> None:
        """Run through the rest of an epoch, comparing all that is delivered; ``call`` after some batches."""
        expected, self.epoch, self.received = self.order[loader.epoch], loader.epoch, begin
        for number, batch in enumerate(loader, 1):
            check(batch, self.values)
            end = self.received + len(batch.starts)
            assert np.array_equal(batch.starts, expected[self.received : end]), "WRONG WINDOWS"
            self.received = end
            self.kept += [batch] * (number % 5 == 0)
            if number == after:
                call()
        assert self.received == len(expected), f"{self.received} of {len(expected)} windows"

    def arm(self) -> None:
        self.armed = True
        if self.named == "slow":
            self.proxy.line, self.proxy.piece = 96 << 10, 1 << 10

    def under_fault(self) -> None:
        """Two epochs, the fault beginning at its moment."""
        self.begin = 0  # of the epoch that runs, where this loader began it
        if self.moment == "open":
            self.arm()
        self.loader = self.open()
        if self.moment == "resume":
            batches = iter(self.loader)
            self.begin = sum(len(next(batches).starts) for _ in range(EARLY))
            state = self.loader.state_dict()
            self.close()
            self.loader, self.cache = None, self.cache and self.cache / "another node"
            if self.store in WHOLE:
                self.arm()
            self.loader = self.open()
            self.loader.load_state_dict(state)
        if self.moment != "middle":
            self.arm()
        self.epoch_of(self.loader, self.begin, after=EARLY, call=self.arm)
        self.begin = 0
        self.epoch_of(self.loader)

    def run(self) -> str:
        error = None
        self.proxy.clear(self.script)
        try:
            self.under_fault()
        except errors.WindowLoaderError as raised:
            error = raised
        assert self.hits, "the harness: this fault was never met"
        assert SECRET not in f"{self.other.log}", "own headers were sent to another host"
        if error is None:
            assert self.times != "lasting" or self.fault.same, "a lasting fault was not noticed"
        else:
            self.judge(error)
            self.armed, self.proxy.line = False, 0.0
            if self.named == "refused":
                self.proxy.revive()
            self.afterwards()
        for batch in self.kept:
            check(batch, self.values)
        return "right error" if error else "same"

    def judge(self, error: errors.WindowLoaderError) -> None:
        text = f"{error}"
        assert self.times == "lasting" or self.fault.fails, f"a passing fault failed: {error!r}"
        assert type(error) in self.fault.raises, f"wrong class: {error!r}"
        assert STORES[self.store] in text, f"the store is not named: {text}"
        assert ADVICE.search(text), f"no advice: {text}"
        assert re.search(self.fault.says, text), f"{self.fault.says} is not named: {text}"
        assert SECRET not in text, f"a secret is shown: {text}"
        early = (
            self.moment == "next" and self.epoch == 0 and self.named != "refused"
        )  # a dead server is so for all
        assert not early, f"broken by the next epoch's fault: {text}"

    def afterwards(self) -> None:
        """With the server well: the same loader, then a new one from where the first broke off."""
        state, received = None, 0
        if self.loader is not None:
            state, received = self.loader.state_dict(), self.received
            self.stage = "after it, the same loader: "
            self.epoch_of(self.loader, self.begin, after=2, call=self.proxy.release)
        self.stage, new = "after it, a new loader: ", self.open()
        if state is not None:
            new.load_state_dict(state)
        self.epoch_of(new, received)
        self.proxy.release()
        while True:  # late answers come while others' batches are made; what a cache keeps is read again
            self.stage, owed = "at last: ", self.proxy.owed
            for loader in filter(None, (self.loader, new)):
                loader.set_epoch(1 - min(loader.epoch, 1))
                self.epoch_of(loader)
            if not owed:
                break

    def close(self) -> None:
        for loader in self.made:
            loader.close()
            loader.windows.series.variables[0].source.close()
        self.made.clear()


def loader_of(root, store, **options):
    header = {"header": True} if store == "csv" else {}
    series = wl.open(f"{root}/{STORES[store]}", missing=MISSING, **options, **header)
    return wl.WindowLoader(wl.WindowSet(series, SPEC), **LOADER, **({} if store in WHOLE else STREAM))


def check(batch, values) -> None:
    raw = values[batch.starts[:, None] + np.arange(SPEC.span)][..., None]
    seen, both = raw != MISSING, np.concatenate([batch.inputs, batch.targets], axis=1)
    assert np.array_equal(both, np.where(seen, raw, 0)), "WRONG VALUES"
    assert np.array_equal(np.concatenate([batch.input_mask, batch.target_mask], axis=1), seen), "WRONG MASKS"


@pytest.fixture(scope="module")
def arrays(bucket_folder, put, write_array):
    """Write each array as each store, into both servers; returns the arrays by width."""
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    random, found, bucket = np.random.default_rng(5), {}, bucket_folder / "bkt"
    for width, nodes in WIDTHS.items():
        values = found[width] = random.integers(1, 1 << 15, (ROWS, nodes)).astype("f4") / 8
        values[random.random(values.shape) < 0.05] = MISSING
        folder, chunks, shards = bucket / width, (CHUNK, nodes), (SHARD, nodes)
        folder.mkdir()
        for store, shape in (("zarr3", None), ("shards", shards)):
            kvstore = {"driver": "file", "path": f"{folder}/{store}.zarr/"}
            write_array(kvstore, values, chunks=chunks, shards=shape)
        zarr.create_array(f"{folder}/blosc.zarr", data=values, chunks=chunks, zarr_format=2)
        np.save(folder / "values.npy", values)
        np.savez(folder / "values.npz", values)
        with h5py.File(folder / "values.h5", "w") as file:
            file.create_dataset("speed", data=values, chunks=chunks, fletcher32=True)
        names = ",".join(f"sensor {number}" for number in range(nodes))
        np.savetxt(folder / "values.csv", values, "%.9g", delimiter=",", header=names, comments="")
        for file in filter(os.path.isfile, folder.rglob("*")):
            put(str(file.relative_to(bucket)), file.read_bytes())
    return found


def orders(url, arrays, folder) -> dict[tuple, list[np.ndarray]]:
    """Starts of the first epochs, from a server that is well; by store, width, and whether there is a cache."""
    found = {}
    for store, width, cache in itertools.product(STORES, arrays, (False, True)):
        options = {"cache_dir": folder / f"{width}-{store}" if cache else None}
        loader = loader_of(f"{url}/bkt/{width}", store, **options)
        epochs = [np.concatenate([batch.starts for batch in loader]) for _ in range(2)]
        assert all(np.array_equal(np.sort(starts), np.arange(ROWS - SPEC.span + 1)) for starts in epochs)
        found[store, width, cache] = epochs
        loader.close()
        loader.windows.series.variables[0].source.close()
    return found


def outcome(trial: Trial) -> tuple[str, str]:
    """Run a case with a guard: "same", "right error" or "neither", and what it was."""
    found = []

    def run() -> None:
        try:
            found.append((trial.run(), ""))
        except BaseException as error:
            text = f"{error}".partition("\nassert")[0]  # without what pytest adds
            found.append(("neither", f"{trial.stage}{type(error).__name__}: {text}"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(GUARD)
    if thread.is_alive():
        faulthandler.dump_traceback()
        found.append(("neither", f"{trial.stage}hangs for {GUARD:g} s"))
        trial.proxy.clear()
        thread.join(GUARD)
    trial.close()
    return found[0]


def table(results: dict[str, tuple[str, str]]) -> str:
    """Count outcomes by fault, and list what is neither."""
    kinds = ("same", "right error", "neither")
    counts = collections.Counter((case.split("-")[2], kind) for case, (kind, _) in results.items())
    counts.update(("all", kind) for kind, _ in results.values())
    rows = [("fault", *kinds)] + [
        (name, *(counts[name, kind] for kind in kinds)) for name in [*FAULTS, "all"]
    ]
    lines = [f"{len(results)} cases", *("".join(f"{cell:>13}" for cell in row) for row in rows)]
    return "\n".join(lines + [f"{case}: {why}" for case, (kind, why) in results.items() if kind == "neither"])


@pytest.mark.usefixtures("by_blocks")  # faults of the next epoch, of which preloaded rows read nothing
@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_same_batches_or_the_right_error(
    static, moto, fault_proxy, arrays, tmp_path, monkeypatch, capsys, scheme
):
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)  # else one block would hold everything
    faulthandler.cancel_dump_traceback_later()  # it may take longer than most tests
    order = orders(static.url, arrays, tmp_path)
    chosen = [case for case in cases() if f"-{scheme}-" in case]
    server = (
        ("127.0.0.1", static.port) if scheme == "http" else tuple(moto.removeprefix("http://").split(":"))
    )
    kept = {}  # the server shares a processor with all cases: it answers once

    def one(number: int) -> tuple[str, str]:
        proxies = [fault_proxy(server, kept=kept).start() for _ in range(2)]
        try:
            return outcome(Trial(chosen[number], number, proxies, arrays, order, tmp_path))
        finally:
            for proxy in proxies:
                proxy.stop()

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        results = dict(zip(chosen, pool.map(one, range(len(chosen))), strict=True))
    with capsys.disabled():
        print(f"\n{table(results)}")
    assert [case for case, (kind, _) in results.items() if kind == "neither"] == []
