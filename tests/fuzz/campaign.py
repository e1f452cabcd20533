"""Opens damaged files and iterates loaders over them, in processes that are watched: ``campaign.py --count 500``.

Each input is a pure function of (seed, number): ``campaign.py --seed S --only N`` runs it again in this process and
shows the traceback. A worker process runs many inputs one after the other and writes a line for each; its parent sees
when it dies (a crash), when an input takes over ten seconds (a hang), and how much memory it took.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import queue
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import mutations  # noqa: E402
import seeds as sound  # noqa: E402

HANG = 10.0  # seconds for one input
ALONE = 60.0  # seconds for the second try of one that was late, by itself: machines are shared
MEMORY = 1 << 30
# Sound inputs that are not read: rows of Fortran order are scattered over an object, and a web server lists no keys.
NOT_READ = {("npy-fortran", "memory"), ("npy-fortran", "http"), ("zarr-loose2.zarr", "http"),
            ("zarr-packed3.zarr", "http")}  # fmt: skip
SHARES = {
    "npy": 4,
    "raw": 1,
    "npz": 2,
    "zarr": 7,
    "kerchunk": 2,
    "hdf5": 4,
    "netcdf": 3,
    "csv": 3,
    "parquet": 2,
}


# -- one input ---------------------------------------------------------------------------------------------------------


def damaged(seeds: dict[str, list[sound.Seed]], seed: int, number: int) -> tuple[sound.Seed, str, dict, dict]:
    """Return the seed, place, files and options of an input; of a negative number a sound one."""
    if number < 0:
        one, place = [
            (one, place) for family in seeds.values() for one in family for place in dict.fromkeys(one.places)
        ][-1 - number]
        options = (
            {"shape": (sound.ROWS, sound.NODES), "dtype": "<f4"} if "raw" in one.options else one.options
        )
        return one, place, one.files, dict(options)
    random = Random(f"{seed}:{number}")
    family = random.choices(list(SHARES), list(SHARES.values()))[0]
    one = random.choice(seeds[family])
    other = random.choice(random.choice(list(seeds.values())))
    files = dict(one.files)
    for path in random.sample(sorted(files), 1 if random.random() < 0.8 else min(2, len(files))):
        files[path] = _damage(one, path, files[path], random, random.choice(list(other.files.values())))
    if random.random() < 0.03:
        del files[random.choice(sorted(files))]
    options = dict(one.options)
    if options.pop("raw", False):
        options = _raw_options(random)
    return one, random.choice(one.places), files, options


def _damage(one: sound.Seed, path: str, data: bytes, random: Random, other: bytes) -> bytes:
    how = one.mutate(path)
    if how == "npz":
        if random.random() < 0.5:
            return mutations.damage(data, random, other)
        return sound.rezip(
            data, lambda inner: mutations.damage_npy(inner, random, other), random.random() < 0.2
        )
    if how == "kerchunk":
        return _damage_references(data, random)
    if how == "json" and random.random() < 0.1:
        how = "bytes"
    return mutations.MUTATE[how](data, random, other)


def _damage_references(data: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        return mutations.damage_json(data, random)
    document = json.loads(data)
    inner = document.get("refs", document)
    key = random.choice(
        [key for key, value in inner.items() if isinstance(value, str) and value.startswith("{")]
    )
    inner[key] = mutations.damage_json(inner[key].encode(), random).decode("utf-8", "replace")
    return json.dumps(document).encode()


def _raw_options(random: Random) -> dict[str, Any]:
    sizes = [
        -1,
        0,
        1,
        6,
        40,
        2**31,
        2**40,
        2**62,
        2**63 - 1,
        2**63,
        2**64,
        -(2**63),
        1.5,
        "6",
        None,
        True,
        float("nan"),
    ]
    shape: Any = [random.choice(sizes) if random.random() < 0.5 else random.choice((6, 40)) for _ in
                  range(random.choice((1, 2, 2, 2, 3, 5, 70)))]  # fmt: skip
    dtype = random.choice(
        ["<f4", "<f4", ">f8", "i1", "O", "U5", "V4", "M8[s]", "zz", 7, None, [("a", "<f4")], "(2,)f4"]
    )
    options = {"shape": random.choice((tuple(shape), tuple(shape), 240, "ab", None)), "dtype": dtype}
    if random.random() < 0.4:
        options["offset"] = random.choice((-1, 0, 8, 2**63, 2**64, -(2**63), 960, 961, 1.5, "8", None))
    if random.random() < 0.2:
        options["order"] = random.choice(("F", "A", "K", 0, None))
    return options


def written(folder: Path, files: dict[str, bytes], where: str) -> None:
    """Lay the files of an input out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data.replace(b"{{where}}", where.encode()))


def put_in_memory(files: dict[str, bytes]) -> None:
    """Lay the files of an input out in fsspec's memory."""
    import fsspec

    system = fsspec.filesystem("memory")
    if system.exists("/fuzz"):
        system.rm("/fuzz", recursive=True)
    for path, data in files.items():
        system.pipe_file(f"/fuzz/{path}", data)


def target_of(
    one: sound.Seed, place: str, folder: Path, web: str, options: dict[str, Any]
) -> tuple[str, dict]:
    """Return what is opened and how."""
    options = dict(options)
    if options.pop("references", False):
        storage = {"fo": str(folder / one.target), "remote_protocol": "file", "allow_references": True}
        return "reference://", {**options, "storage_options": storage}
    roots = {"disk": str(folder), "memory": "memory://fuzz", "http": web}
    if place == "http":
        options["storage_options"] = {"retries": 0}
    return f"{roots[place]}/{one.target}", options


def iterate(target: str, options: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Open a series and return its shape's rows and the inputs of a few batches, with the rows where they start."""
    import windowloader as wl

    series = wl.open(target, **options)
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=2))
    found = []
    with wl.WindowLoader(windows, batch_size=4, memory="64MiB", prefetch_batches=1) as loader:
        for number, batch in enumerate(loader):
            found.append((int(batch.starts[0]), batch.inputs[0].copy()))
            if number == 3:
                break
    for variable in series.variables:
        variable.source.close()
    return series, found


def compare(one: sound.Seed, path: Path, found: list[Any]) -> str | None:
    """Return how the values differ from those that the format's own library reads, if they do."""
    import numpy as np

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = one.oracle(path)
    except Exception:  # the library refuses what was read
        return None
    if rows is None or rows.dtype.kind not in "fiub":
        return None
    with np.errstate(all="ignore"):
        rows = rows.reshape(len(rows), -1).astype("f4")
    for start, inputs in found:
        expected = rows[start : start + 3]
        if len(expected) < 3:
            continue
        got = inputs.reshape(3, -1)
        if got.shape != expected.shape:
            return f"shape {got.shape} instead of {expected.shape}"
        if not np.array_equal(got, expected, equal_nan=True):
            return f"rows {start}–{start + 2} differ: {got[0][:3]} instead of {expected[0][:3]}"
    return None


# -- a worker ----------------------------------------------------------------------------------------------------------


def work(folder: Path, seed: int, numbers: list[int], say: Any, limit: bool = True) -> None:
    """Run inputs one after the other; ``say`` is called before and after each."""
    warnings.simplefilter("ignore")
    seeds = sound.seeds(folder / "sound")
    here = folder / "input"
    web = _serve(here)
    for family in seeds:  # what is imported and compiled once is no input's
        one = seeds[family][0]
        if not one.options:
            written(here, one.files, str(here / "a.bin"))
            iterate(*target_of(one, "disk", here, web, {}))
    if limit:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30), size + (3 << 30)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        one, place, files, options = damaged(seeds, seed, number)
        written(here, files, str(here / "a.bin"))
        if place == "memory":
            put_in_memory(files)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        say({"begin": number, "seed": one.name, "place": place})
        began, used = time.monotonic(), time.process_time()
        outcome = run(one, place, here, web, options)
        outcome["seconds"], outcome["cpu"] = time.monotonic() - began, time.process_time() - used
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        outcome["peak"] = int(peak[1]) * 1024 if peak else 0
        say({"end": number, **outcome})


def run(one: sound.Seed, place: str, folder: Path, web: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run one input and say what came of it."""
    import windowloader as wl

    target, options = target_of(one, place, folder, web, options)
    before = os.getcwd()
    os.chdir(folder)  # a reference may be a relative path
    try:
        _, found = iterate(target, options)
    except wl.WindowLoaderError as error:
        return {"kind": "refused", "error": type(error).__name__}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return {
            "kind": "foreign",
            "error": type(error).__name__,
            "where": _where(error),
            "says": str(error)[:200],
        }
    finally:
        os.chdir(before)
    differs = compare(one, folder / one.target, found)
    return {"kind": "values", "says": differs} if differs else {"kind": "read"}


def _where(error: BaseException) -> str:
    """Return the innermost line of the package that an error passed through."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "windowloader/" in frame.filename
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""


def _serve(folder: Path) -> str:
    """Serve a folder with ranges, in threads of this process."""
    sys.path.insert(0, str(HERE.parent / "storage"))
    from staticserver import StaticServer

    return StaticServer(folder).start().url


# -- the parent --------------------------------------------------------------------------------------------------------


class Worker:
    """A process that runs inputs, and what it last said."""

    def __init__(self, folder: Path, seed: int, numbers: list[int]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "numbers").write_text(json.dumps(numbers))
        self.folder, self.numbers, self.lines = folder, numbers, queue.Queue()
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "PYTHONFAULTHANDLER": "1", "NO_PROXY": "*"}
        self.errors = open(folder / "stderr", "wb")  # noqa: SIM115 closed in `end`
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(folder), "--seed", str(seed)],
            stdout=subprocess.PIPE, stderr=self.errors, env=environment,
        )  # fmt: skip
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with self.process.stdout as lines:
            for line in lines:
                self.lines.put(json.loads(line))
        self.lines.put(None)

    def end(self) -> int:
        self.process.kill()
        code = self.process.wait()
        self.errors.close()
        return code


def supervise(folder: Path, seed: int, numbers: list[int], note: Any, late: float = HANG) -> None:
    """Run numbers in one process after the other, until all were run."""
    while numbers:
        worker, begun = Worker(folder, seed, numbers), None
        while True:
            try:
                said = worker.lines.get(timeout=late if begun else 600)
            except queue.Empty:
                worker.end()
                if late < ALONE:  # by itself, with time for a busy machine
                    supervise(folder, seed, [begun["begin"]], note, ALONE)
                else:
                    note({**begun, "kind": "hang", "seconds": late, "says": _stack(worker)})
                break
            if said is None:
                code = worker.process.wait()
                worker.end()
                if begun:
                    note({**begun, "kind": "crash", "error": f"exit {code}", "says": _stack(worker)})
                elif code:
                    raise RuntimeError((folder / "stderr").read_text()[-4000:])
                break
            if "begin" in said:
                begun = said
            else:
                if said["seconds"] > HANG and said["cpu"] > HANG / 2:  # else the machine was busy
                    said["kind"] = "hang"
                if said["peak"] > MEMORY:
                    said = {**said, "kind": "memory", "was": said["kind"]}
                note({**begun, **said})
                done, begun = said["end"], None
                numbers = numbers[numbers.index(done) + 1 :]
        if begun:
            numbers = numbers[numbers.index(begun["begin"]) + 1 :]


def _stack(worker: Worker) -> str:
    return (worker.folder / "stderr").read_text(errors="replace")[-1500:]


def campaign(
    seed: int, start: int, count: int, workers: int, kept: Path | None = None, log: Path | None = None
) -> list[dict[str, Any]]:
    """Run inputs and return what came of each."""
    results: list[dict[str, Any]] = []
    failed: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:

        def note(found: dict[str, Any]) -> None:
            results.append({**found, "number": found["begin"]})
            if log:
                with log.open("a") as lines:
                    lines.write(json.dumps(results[-1]) + "\n")
            if kept and found["kind"] in ("crash", "hang", "memory"):
                keep(Path(folder) / "kept", kept, seed, found["begin"])

        def lane(which: int) -> None:
            try:
                supervise(
                    Path(folder) / str(which), seed, list(range(start, start + count))[which::workers], note
                )
            except BaseException as error:
                failed.append(error)

        lanes = [threading.Thread(target=lane, args=(which,)) for which in range(workers)]
        for one in lanes:
            one.start()
        for one in lanes:
            one.join()
    if failed:
        raise failed[0]
    return results


def keep(scratch: Path, kept: Path, seed: int, number: int) -> None:
    """Save the files of an input."""
    _, _, files, _ = damaged(sound.seeds(scratch / "sound"), seed, number)
    written(kept / f"{seed}-{number}", files, str(kept / f"{seed}-{number}" / "a.bin"))
    shutil.rmtree(scratch)


def failures(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return what must not be, by kind."""
    found = collections.defaultdict(list)
    for one in results:
        if one["kind"] not in ("read", "refused"):
            what = (
                f"{one['kind']} {one['seed'].partition('-')[0]} {one.get('error', '')} {one.get('where', '')}"
            )
            found[what.strip()].append(one)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def replay(seed: int, one: dict[str, Any]) -> str:
    """Return how an input is run again, and what it was."""
    said = f"{one.get('says', '')}"[-300:]
    where = f"({one['seed']}, {one['place']}, {one.get('seconds', 0):.1f} s, {one.get('peak', 0) >> 20} MiB)"
    return f"campaign.py --seed {seed} --only {one['number']} {where} {said!r}"


def count_sound() -> int:
    """Count the sound inputs: each seed at each place."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        seeds = sound.seeds(Path(folder) / "sound")
    return sum(len(set(one.places)) for ones in seeds.values() for one in ones)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("seed", 1), ("start", 0), ("count", 500), ("workers", 2), ("only", None)):
        parse.add_argument(f"--{name}", type=int, default=default)
    parse.add_argument("--work", type=Path)
    parse.add_argument("--keep", type=Path)
    parse.add_argument("--log", type=Path)
    given = parse.parse_args()
    if given.work:
        out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # whatever a library prints
        work(
            given.work,
            given.seed,
            json.loads((given.work / "numbers").read_text()),
            lambda said: print(json.dumps(said), file=out),
        )
        os._exit(0)
    if given.only is not None:
        again(given.seed, given.only)
        return
    results = campaign(given.seed, given.start, given.count, given.workers, given.keep, given.log)
    print(
        dict(collections.Counter(one["kind"] for one in results)),
        f"peak {max(one.get('peak', 0) for one in results) >> 20} MiB",
    )
    for what, ones in failures(results).items():
        print(f"{len(ones):6d} {what}\n       {replay(given.seed, ones[0])}")


def again(seed: int, number: int) -> None:
    """Run one input here, and show what it raises."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        here = Path(folder) / "input"
        one, place, files, options = damaged(sound.seeds(Path(folder) / "sound"), seed, number)
        written(here, files, str(here / "a.bin"))
        put_in_memory(files)
        target, options = target_of(one, place, here, _serve(here), options)
        print(one.name, target, options)
        for path, data in files.items():
            if data != one.files[path]:
                print(f"damaged: {path}\n{data[:3000]!r}\nof\n{one.files[path][:3000]!r}")
        os.chdir(here)
        try:
            series, found = iterate(target, options)
        finally:
            sys.stdout.flush()
        print(series, compare(one, here / one.target, found))


if __name__ == "__main__":
    main()
