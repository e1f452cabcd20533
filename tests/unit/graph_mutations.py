"""Loads damaged and hostile graph files in a process whose memory is bounded: `test_graph_mutations` runs it.

Arguments: a folder to write to, and the first and last number of the cases. Prints what came of them as JSON.
"""

# ruff: noqa: E501 - bytes are written as they lie in the file
from __future__ import annotations

import collections
import gzip
import io
import json
import pickle
import pickletools
import random
import resource
import struct
import sys
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import scipy.sparse

import windowloader as wl
from windowloader.errors import WindowLoaderError
from windowloader.series.graph import Graph

LIMIT = 1 << 30  # bytes of addresses beyond those in use before
DENSE = np.where(np.random.default_rng(0).random((9, 9)) < 0.3, 0.5, 0.0)
SPARSE = scipy.sparse.csr_matrix(DENSE)
IDS = ["s" + str(773_869 + 31 * number) for number in range(9)]
OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
NUMBERS = [
    struct.pack("<Q", number) for number in (0, 1, 255, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
]
CELLS = [
    b"1e999",
    b"nan",
    b"-1",
    b"9" * 30,
    b'"',
    b"\0",
    b"\xff",
    b"",
    b"\n",
    b",",
    b";",
    b"x" * 300,
    b"1.0e300",
]


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def sparse(matrix):
    file = io.BytesIO()
    scipy.sparse.save_npz(file, matrix)
    return file.getvalue()


def sound():
    """Files of every kind that is read, by suffix."""
    numbers = {label: number for number, label in enumerate(IDS)}
    matrices = [DENSE, DENSE.astype("f4"), np.asfortranarray(DENSE), DENSE.astype(">f8"), DENSE.astype("u1")]
    contents = [*[[IDS, numbers, matrix] for matrix in matrices], DENSE, [np.array(IDS), {}, DENSE]]
    contents.append([[np.int64(label[1:]) for label in IDS], {}, DENSE])
    contents.append([[label.encode() for label in IDS], {}, DENSE])
    index = SPARSE.tocoo()
    edges = {"edge_index": np.stack([index.row, index.col]), "edge_weight": index.data}
    rows = [",".join(map(str, row)) for row in DENSE.tolist()]
    listed = [f"{IDS[i]},{IDS[j]},{w}" for i, j, w in zip(index.row, index.col, index.data, strict=True)]
    tables = ["\n".join(rows), "\n".join([",".join(IDS), *rows]), "\n".join(["from,to,cost", *listed])]
    tables.append("\n".join(["from,to", *(f"{i},{j}" for i, j in edges["edge_index"].T)]))
    return {
        ".pkl": [pickle.dumps(content, protocol) for content in contents for protocol in range(6)],
        ".npy": [npy(matrix) for matrix in [*matrices, edges["edge_index"]]],
        ".npz": [
            npz(adj=DENSE, sensors=np.array(IDS)), npz(np.savez_compressed, adj=DENSE), npz(**edges, num_nodes=9),
            npz(**edges, nodes=np.array(IDS)), *[sparse(SPARSE.asformat(kind)) for kind in ("csr", "csc", "coo")],
        ],
        ".csv": [table.encode() for table in tables],
        ".csv.gz": [gzip.compress(table.encode()) for table in tables],
    }  # fmt: skip


def hostile():
    """Hand-written files: each would crash, fill the memory or never end, were it read as it asks."""
    head, end = b"\x80\x04", b"."
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8I00\nI01\ntR"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntX\x01\x00\x00\x00btR"
    laughs = b"]" + b"q\x00" + b"".join(b"](h%cdh%ce" % (n, n) + b"q%c" % (n + 1) for n in range(40))
    shared = b"](" + b"X\x10\x27\x00\x00" + b"a" * 10_000 + b"q\x01" + b"h\x01" * 30_000 + b"e}"
    pickles = [
        b"r\xff\xff\xff\x0f.", b"]r\xff\xff\xff\x7f.", head + b"\x8e" + b"\xff" * 6 + b"\x00\x00.",
        head + b"\x8e\xff\xff\xff\x7f\x00\x00\x00\x00.", head + b"\x96\xff\xff\xff\x7f\x00\x00\x00\x00.",
        head + b"\x95\xff\xff\xff\x7f\x00\x00\x00\x00N.", b"B\xff\xff\xff\x7f.", b"\x8b\xff\xff\xff\x7f.",
        dtype + b"(I3\nX\x01\x00\x00\x00<NN(X\x01\x00\x00\x00attb.", dtype + b"(I3\nX\x01\x00\x00\x00<(" + dtype + b"I9\ntNNI-1\nI-1\nI0\ntb.",
        dtype + b"}b.", dtype + b"(NNNNNNNNtb.", b"cnumpy\ndtype\n}b.", b"cnumpy\ndtype\n(X\x01\x00\x00\x00OI00\nI01\ntR.",
        b"cnumpy\ndtype\n(X\x0a\x00\x00\x00V999999999I00\nI01\ntR.", array + b"(I1\n(I99999999\nt" + dtype + b"I00\nC\x01atb.",
        array + b"(I1\n(I4611686018427387904\nI4\nt" + dtype + b"I00\nC\x00tb.", array + b"(I1\n(I-1\nt" + dtype + b"I00\nC\x00tb.",
        array + b"}b.", array + b"(NNNNNtb.", b"cnumpy.core.multiarray\n_reconstruct\n}(X\x0c\x00\x00\x00__defaults__NtS'x'\ntb.",
        b"cnumpy.core.multiarray\nscalar\n(" + dtype + b"C\x01atR.", b"cnumpy._core.numeric\n_frombuffer\n(C\x01a" + dtype + b"(I9\ntX\x01\x00\x00\x00CtR.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zip" + b"tR.", b"cos\nsystem\n(S'true'\ntR.", b"\x82\x01.", b"Pfoo\n.", b"\x97.",
        laughs + end, laughs + b"}q\x7fh\x28Ns.", b"](" + b"2" * 99 + b"e.", b"]q\x00h\x00a.", b"(" * 200_000 + b".", b"]" * 200_000 + b"a" * 199_999 + b".",
        b"(" * 100_000 + b"t" * 100_000 + b"}0.", shared + b"\x87.", b"](" + shared + pickle.dumps(DENSE, 2)[2:-1] + b"e.",
        b"(" + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(20_000)) + b"d.",
        b"C\xff" + b"a" * 255 + b"q\x01]" + (array + b"(I1\n(I255\ntcnumpy\ndtype\n(X\x02\x00\x00\x00u1tRI00\nh\x01tba") * 500 + b".",
        pickle.dumps([["a", "b"], {}, np.zeros(())]), pickle.dumps([[["a"], ["b"]], {}, DENSE[:2, :2]]), pickle.dumps([["a", "b"], {"a": DENSE}, DENSE[:2, :2]]),
        pickle.dumps([["a" * 10_000, *map(str, range(8))], {}, DENSE]),
    ]  # fmt: skip

    def claims(shape, descr="<f8"):
        header = (
            f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
        )
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header

    def packed(*members, lie=0):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members:
                archive.writestr(f"{name}.npy", data)
        data = file.getvalue()
        return data.replace(struct.pack("<II", lie, lie), struct.pack("<II", lie, 2**32 - 2)) if lie else data

    large = claims((23_000, 23_000))
    arrays = [
        large,
        claims((2**40, 2**40)),
        claims((-1, -8)),
        claims((0, 2**62)),
        claims((9, 9), "|O"),
        claims((1, 1), "|V0"),
        claims("((" * 300, "<f8"),
    ]
    one, out = np.ones(2), np.array([0, 2**31 - 2], np.int32)
    wrong = [
        {"format": "csc", "shape": [3, 3], "data": one, "indices": out, "indptr": np.array([0, 1, 2, 2], np.int32)},
        {"format": "csr", "shape": [3, 3], "data": one, "indices": out, "indptr": np.array([0, 1, 2, 2], np.int32)},
        {"format": "csr", "shape": [3, 3], "data": one, "indices": [0, 1], "indptr": [0, 2**30, -(2**30), 2]},
        {"format": "csr", "shape": [3, 3], "data": one, "indices": [0, 1], "indptr": [0, 2, 0, 0]},
        {"format": "csc", "shape": [3, 3], "data": one, "indices": [0, 1], "indptr": [0, 2**62, -(2**62), 2]},
        {"format": "bsr", "shape": [3, 3], "data": one[:, None, None], "indices": out, "indptr": [0, 1, 2, 2]},
        {"format": "coo", "shape": [3, 3], "data": one, "row": out, "col": out},
        {"format": "sp", "shape": [3, 3], "data": one, "indices": out, "indptr": out},
        {"format": "csr", "shape": [3, 3], "data": one},
        {"edge_index": [[0], [1]], "num_nodes": np.arange(3)}, {"edge_index": [[0], [1]], "num_nodes": "x"},
    ]  # fmt: skip
    archives = [packed(("adj", data)) for data in arrays] + [
        packed(("adj", large), lie=len(large)),
        packed(("adj", b"no array")),
    ]
    archives += [npz(**{name: np.asarray(value) for name, value in members.items()}) for members in wrong]
    labels = ["x" * 10_000, *map(str, range(20_000))]
    texts = [
        "from,to\n" + "\n".join(f"{label},0" for label in labels),
        "from,to\n0," + "9" * 10_000,
        "from,to,cost\na,b,1e60",
        '"\n' * 200_000,
        "\0,\0",
        "1" * 300_000,
    ]
    return [
        *[(".pkl", data) for data in pickles], *[(".npy", data) for data in arrays], *[(".npz", data) for data in archives],
        *[(".csv", text.encode()) for text in texts], (".csv.gz", gzip.compress(b"0," * (40 << 20))), (".csv.gz", b"\x1f\x8b"),
    ]  # fmt: skip


def mutated(rng, files):
    """Return the suffix and bytes of a damaged file."""
    suffix = rng.choice([".pkl", ".pkl", *files])
    data = rng.choice(files[suffix])
    if suffix == ".csv.gz" and rng.random() < 0.8:
        return suffix, gzip.compress(damaged(rng, gzip.decompress(data), files[".csv"], suffix))
    if suffix == ".npz" and rng.random() < 0.8:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        chosen = rng.choice(list(members))
        members[chosen] = damaged(rng, members[chosen], [*files[".npy"], *members.values()], suffix)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return suffix, file.getvalue()
    return suffix, damaged(rng, data, files[suffix], suffix)


def damaged(rng, data, others, suffix):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(changed) + 1)
        until = min(len(changed), at + rng.choice([1, 4, 8, 40]))
        way = rng.randrange(7)
        if way == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del changed[at:until]
        elif way == 2 and rng.random() < 0.3:
            del changed[at:]
        elif way == 3:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            changed[at:until] = other[begin : begin + rng.choice([1, 8, 60, 1000])]
        elif way == 4:
            width = rng.choice([1, 2, 4, 8])
            changed[at : at + width] = rng.choice(NUMBERS)[:width]
        elif way == 5:
            changed[at:at] = changed[at:until] * rng.choice([1, 2, 50])
        elif "csv" in suffix:
            changed[at:until] = rng.choice(CELLS)
        elif suffix == ".pkl":
            places = opcodes(bytes(changed)) or [0]
            place = rng.choice(places)
            changed[place : place + rng.choice([0, 1])] = rng.choice(OPCODES) + rng.choice([b"", *NUMBERS])
    return bytes(changed)


def opcodes(data):
    places = []
    try:
        places.extend(place for _, _, place in pickletools.genops(data))
    except Exception:
        return places
    return places


def use(path):
    """Do with a file what a series does, and more."""
    graph = Graph.load(path)
    if graph.num_nodes < 1000:
        graph.dense()
        graph.select(np.arange(graph.num_nodes)[::-1])
    wl.Series(np.zeros((3, 9), np.float32), graph=str(path))


def main(folder, first, last):
    warnings.simplefilter("error")
    files, chosen = sound(), hostile()
    real = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    if real is not None:
        files[".pkl"].extend([real.read_bytes()] * 3)
    use_all(folder, files)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, used + LIMIT))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    found, wrong = collections.Counter(), []
    for number in range(first, last):
        rng = random.Random(number)
        suffix, data = chosen[number] if number < len(chosen) else mutated(rng, files)
        path = folder / f"case{suffix}"
        path.write_bytes(data)
        (folder / "number").write_text(str(number))
        try:
            use(path)
            found["read"] += 1
        except Exception as error:
            found[type(error).__name__] += 1
            asked = error.__cause__ or error
            if not isinstance(error, WindowLoaderError) or isinstance(
                asked, (MemoryError, AttributeError, NameError)
            ):
                wrong.append(f"{number} {suffix}: {''.join(traceback.format_exception(error))}")
    print(json.dumps({"found": found, "wrong": wrong, "grown": peak() - before, "hostile": len(chosen)}))


def peak():
    """Return the most bytes of memory that were in use."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def use_all(folder, files):
    """Read the sound files: they are what is damaged, and must be read."""
    for suffix, contents in files.items():
        for data in contents:
            path = folder / f"sound{suffix}"
            path.write_bytes(data)
            Graph.load(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
