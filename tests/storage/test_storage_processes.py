"""Handles and processes: fork after use, spawn, interpreter exit. Each case is a process of its own."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

VALUES = np.arange(40 * 3, dtype="f4").reshape(40, 3)


def run(code, *arguments, timeout=280):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


FORK = """
    import os, pickle, sys
    import numpy as np
    from windowloader.errors import SourceError
    url, endpoint, kind = sys.argv[1:]
    options = {"endpoint_url": endpoint, "anon": True} if endpoint else {}
    if kind == "chunked":
        from windowloader.sources.chunked import open_chunked
        source = open_chunked(url, storage_options=options)
    else:
        from windowloader.sources.numpy_files import open_npy
        source = open_npy(url, storage_options=options)
    expected = np.arange(120, dtype="f4").reshape(40, 3)

    def check(start, stop):
        out = np.full((stop - start, 6), -1, "f4")[:, ::2]
        source.read(start, stop, out)
        assert (out == expected[start:stop]).all()

    def refused(call):
        try:
            call()
        except SourceError as error:
            for words in ("forked", 'multiprocessing_context="forkserver"', '"spawn"'):
                assert words in str(error), error
        else:
            raise AssertionError(call)

    def child():
        out = np.empty((2, 3), "f4")
        for _ in range(2):
            refused(lambda: source.read(3, 5, out))
            refused(lambda: source.submit(3, 5, out).result())
        refused(lambda: pickle.loads(pickle.dumps(source)).read(3, 5, out))
        try:
            source.read(39, 41, out)
        except IndexError:
            source.close()
            return

    def forked(work):
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    if kind == "chunked" and not endpoint:  # TensorStore is loaded by the first read
        forked(lambda: check(0, 40))
    check(0, 40)
    forked(child)
    forked(lambda: forked(child))
    check(0, 40)
    print("done")
"""


def test_fork_after_use_on_this_machine(tmp_path, write_array):
    write_array({"driver": "file", "path": f"{tmp_path}/a.zarr/"}, VALUES, chunks=(7, 3))
    assert run(FORK, tmp_path / "a.zarr", "", "chunked").strip() == "done"


def test_fork_after_use_of_s3(static, bucket_folder, write_array):
    write_array({"driver": "file", "path": f"{bucket_folder}/bkt/fork.zarr/"}, VALUES, chunks=(7, 3))
    assert run(FORK, "s3://bkt/fork.zarr", static.url, "chunked").strip() == "done"


def test_fork_after_use_of_byte_ranges(static, bucket_folder):
    np.save(bucket_folder / "bkt" / "fork.npy", VALUES)
    assert run(FORK, "s3://bkt/fork.npy", static.url, "npy").strip() == "done"


OPENED_ANEW = """
    import multiprocessing, sys
    import numpy as np, torch
    import windowloader as wl

    def use(target):
        (variable,) = wl.open(target).variables
        rows = np.empty((3, 3), variable.source.dtype)
        variable.source.read(5, 8, rows)
        assert (rows == np.arange(15, 24).reshape(3, 3)).all()
        variable.source.close()

    class Opening(torch.utils.data.Dataset):
        def __init__(self, targets): self.targets = targets
        def __len__(self): return len(self.targets)
        def __getitem__(self, place): return use(self.targets[place]) or place

    def child(work, targets):
        for target in targets:
            try:
                use(target)
            except wl.errors.SourceError as error:
                assert not work and '"spawn"' in str(error) and "forkserver" in str(error), error
            else:
                assert work, target

    def run(context, work, targets):
        process = multiprocessing.get_context(context).Process(target=child, args=(work, targets))
        process.start()
        process.join()
        assert process.exitcode == 0, (context, targets, process.exitcode)

    if __name__ == "__main__":
        folder, url = sys.argv[1:]
        here = [f"{folder}/fork.npy", f"{folder}/fork.csv"]
        zarr = f"{folder}/fork.zarr"
        there = [zarr, f"{url}/fork.zarr", f"{url}/fork.npy", f"{url}/fork.csv"]
        run("fork", True, here + there)         # nothing was opened before
        for used in (zarr, there[2], there[3]):  # one is enough
            use(used)
            run("fork", True, here)
            run("fork", False, there)
            use(used)
        loader = torch.utils.data.DataLoader
        assert len(list(loader(Opening(here), num_workers=1, multiprocessing_context="fork"))) == 2
        try:
            list(loader(Opening(there), num_workers=1, multiprocessing_context="fork"))
            raise AssertionError
        except wl.errors.SourceError as error:
            assert "forkserver" in str(error), error
        print("done")
"""


def test_stores_opened_in_a_forked_process(static, bucket_folder, write_array):
    folder = bucket_folder / "bkt"
    write_array({"driver": "file", "path": f"{folder}/fork.zarr/"}, VALUES, chunks=(7, 3))
    np.save(folder / "fork.npy", VALUES)
    np.savetxt(folder / "fork.csv", VALUES, delimiter=",", header="a,b,c", comments="")
    assert run(OPENED_ANEW, folder, f"{static.url}/bkt").strip() == "done"


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_urls_are_opened_in_processes_that_were_not_forked(static, bucket_folder, tmp_path, context):
    """What the error of a forked process advises."""
    np.save(bucket_folder / "bkt" / "fresh.npy", VALUES)
    script = tmp_path / "script.py"
    code = textwrap.dedent(OPENED_ANEW).partition("class Opening")[0].replace(", torch", "")
    code += "def child" + textwrap.dedent(OPENED_ANEW).partition("def child")[2].partition("if __name__")[0]
    main = "use(sys.argv[1]); run(sys.argv[2], True, sys.argv[1:2]); print('done')"
    script.write_text(f'{code}if __name__ == "__main__":\n    {main}\n')
    done = subprocess.run(
        [sys.executable, script, f"{static.url}/bkt/fresh.npy", context],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize("threads", [0, 2])
def test_a_loader_in_a_forked_process_says_so(tmp_path, write_array, threads):
    write_array({"driver": "file", "path": f"{tmp_path}/a.zarr/"}, VALUES, chunks=(7, 3))
    code = """
        import os, sys
        import windowloader as wl
        windows = wl.WindowSet(wl.open(sys.argv[1]), wl.WindowSpec(lookback=3, horizon=1))
        loader = wl.WindowLoader(windows, batch_size=5, threads=int(sys.argv[2]))
        iterator = iter(loader)
        next(iterator)
        if os.fork() == 0:
            for batches in (loader, wl.WindowLoader(windows, batch_size=5)):
                try:
                    list(batches)
                except wl.errors.SourceError as error:
                    assert "a.zarr" in str(error) and "forkserver" in str(error), error
                else:
                    os._exit(1)
            os._exit(0)
        assert os.wait()[1] == 0
        assert len(list(iterator)) == 7
        print("done")
    """
    assert run(code, tmp_path / "a.zarr", threads).strip() == "done"


def test_opening_here_leaves_tensorstore_alone(tmp_path, write_array):
    write_array({"driver": "file", "path": f"{tmp_path}/a.zarr/"}, VALUES, chunks=(7, 3))
    code = """
        import sys
        from windowloader.sources.chunked import list_arrays, open_chunked
        source = open_chunked(sys.argv[1])
        source.fingerprint(), source.storage().edges, source.timestamps(), source.labels(1), list_arrays(sys.argv[1])
        assert "tensorstore" not in sys.modules
    """
    run(code, tmp_path / "a.zarr")


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_spawned_processes_open_from_the_pickle(static, bucket_folder, write_array, context):
    write_array({"driver": "file", "path": f"{bucket_folder}/bkt/spawn.zarr/"}, VALUES, chunks=(7, 3))
    code = """
        import multiprocessing, sys
        import numpy as np
        from windowloader.sources.chunked import open_chunked
        if __name__ == "__main__":
            options = {"endpoint_url": sys.argv[1], "key": "k", "secret": "s"}
            source = open_chunked("s3://bkt/spawn.zarr", storage_options=options)
            source.read(0, 40, np.empty((40, 3), "f4"))
            with multiprocessing.get_context(sys.argv[2]).Pool(1) as pool:
                pool.apply(source.read, (0, 40, np.empty((40, 3), "f4")))
            print("done")
    """
    assert run(code, static.url, context).strip() == "done"


@pytest.mark.parametrize(
    "how",
    ["plain", "reads under way", pytest.param("stalled", marks=pytest.mark.campaign), "exit in a thread"],
)
def test_the_interpreter_ends(proxy, bucket_folder, write_array, how):
    write_array({"driver": "file", "path": f"{bucket_folder}/bkt/exit.zarr/"}, VALUES, chunks=(1, 3))
    if how == "stalled":
        proxy.clear(lambda number, method, path, headers: "stall" if "/c/" in path else None)
    else:
        proxy.clear(latency=0.05)
    code = """
        import sys, threading
        import numpy as np
        from windowloader.sources.chunked import open_chunked
        options = {"endpoint_url": sys.argv[1], "anon": True, "request_limit": 2}
        source = open_chunked("s3://bkt/exit.zarr", storage_options=options)
        out = np.empty((40, 3), "f4")
        if sys.argv[2] == "plain":
            source.read(0, 3, out[:3])
        else:
            pending = [source.submit(row, row + 1, out[row : row + 1]) for row in range(40)]
        if sys.argv[2] == "exit in a thread":
            thread = threading.Thread(target=pending[-1].result)
            thread.start()
        print("done")
    """
    assert run(code, proxy.url, how, timeout=280).strip() == "done"
