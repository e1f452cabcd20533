"""Headers, metadata and arguments that describe no array: errors of the package at once, wherever the bytes are."""

import io
import json
import struct
import zipfile

import fsspec
import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import SeriesError, SourceFormatError, WindowLoaderError, WindowSpecError

VALUES = np.arange(240, dtype="<f4").reshape(40, 6)
SPEC = wl.WindowSpec(lookback=3, horizon=2)
SHAPES = ["(-40, 6)", "(-40, -6)", "(40, -6)", "(9223372036854775807, 6)", "(4611686018427387904, 4)",
          "(0, 9223372036854775808)",
          "(4294967296, 4294967296)", "(1e3, 6)", "(None, 6)", "('40', 6)", "40", "[40, 6]", "(" * 300,
          "(40, 6", "(40, 6)}, {",
          "__import__('os').getpid()", "(40,)*99", "(3.5, 6)", "", "'", "\\", "\0", "(True, 6)"]  # fmt: skip
DESCRIBED = [
    "'O'",
    "'|O8'",
    "'M8[s]'",
    "'<U4'",
    "'V4'",
    "[('a', '<f4')]",
    "'zz'",
    "None",
    "7",
    "'<f4",
    "[('a',",
]


def npy(shape="(40, 6)", descr="'<f4'", version=1):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 13) % 64) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + VALUES.tobytes()


@pytest.fixture(params=["disk", "memory"])
def put(request, tmp_path):
    """Put bytes where they are opened from."""

    def put(data, name):
        if request.param == "disk":
            (tmp_path / name).write_bytes(data)
            return str(tmp_path / name)
        fsspec.filesystem("memory").pipe_file(f"/absurd/{name}", data)
        return f"memory://absurd/{name}"

    yield put
    if request.param == "memory" and fsspec.filesystem("memory").exists("/absurd"):
        fsspec.filesystem("memory").rm("/absurd", recursive=True)


def load(target, **options):
    series = wl.open(target, **options)
    with wl.WindowLoader(wl.WindowSet(series, SPEC), batch_size=8, memory="16MiB") as loader:
        found = next(iter(loader)).inputs[0, ..., 0]
    for variable in series.variables:
        variable.source.close()
    return found


@pytest.mark.parametrize(
    "header", [*(f"shape={shape}" for shape in SHAPES), *(f"descr={descr}" for descr in DESCRIBED)]
)
def test_headers_of_npy(put, header):
    name, _, value = header.partition("=")
    with pytest.raises(WindowLoaderError, match=r"a\.npy"):
        load(put(npy(**{name: value}), "a.npy"))


def test_a_header_longer_than_its_file_is_not_read_to_its_end(put):
    np.testing.assert_array_equal(load(put(npy(version=2), "a.npy")), VALUES[:3])
    for length in (2**32 - 1, 2**31, 20_000):
        data = npy(version=2)
        with pytest.raises(WindowLoaderError, match=r"header of .*a\.npy"):
            load(put(data[:8] + struct.pack("<I", length) + data[12:] + bytes(30_000), "a.npy"))


RAW = [{"shape": shape} for shape in [(-2, 6), (-1, -1), (40, 2**63), (2**64, 6), (0, 2**63), (1.5, 6), ("40", 6),
                                      (None, 6),
                                      240, "ab", None,
                                      (float("nan"), 6), (40, 6, -1, 0), ([40], 6)]]  # fmt: skip
RAW += [
    {"dtype": dtype}
    for dtype in ["O", "U5", "zz", 7, None, [("a", "<f4")], "(2,)f4", "f4,", "M8[s]", "V0", "c8"]
]
RAW += [{"offset": offset} for offset in [-1, 2**63, 2**64, 1.5, "8", None, 961, float("nan")]]


@pytest.mark.parametrize("given", RAW, ids=repr)
def test_arguments_of_bare_numbers(put, given):
    with pytest.raises(WindowLoaderError, match=r"a\.bin"):
        load(put(VALUES.tobytes(), "a.bin"), **{"shape": (40, 6), "dtype": "<f4", **given})


@pytest.mark.parametrize("shape", [(0, 6), (40, 0), (40, 6, 0), (0, 0), (0,)])
def test_arrays_without_values(put, shape):
    array = np.zeros(shape, "f4")
    file = io.BytesIO()
    np.save(file, array)
    for target in (array, put(file.getvalue(), "a.npy")):
        with pytest.raises((SeriesError, WindowSpecError), match=r"has 0 rows|axis beside time is empty"):
            wl.WindowSet(wl.open(target), SPEC)


@pytest.mark.parametrize("shape", [[2**62, 6], [40, 2**62], [2**40, 6], [40, 2**40], [-40, 6], [2**31, 1]])
def test_zarr_of_more_chunks_than_can_be(tmp_path, shape):
    for chunks in ([1, 1], [10, 6], [2**62, 6], [-1, 6], [0, 6]):
        document = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": "<f4", "compressor": None,
                    "fill_value": 0, "filters": None, "order": "C"}  # fmt: skip
        (tmp_path / "a.zarr").mkdir(exist_ok=True)
        (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(document))
        with pytest.raises(WindowLoaderError):
            load(tmp_path / "a.zarr")


TRICKS = [
    "../../escaped.npy",
    "/tmp/escaped.npy",
    "C:\\escaped.npy",
    "a/../../../escaped.npy",
    "con.npy",
    "é\n.npy",
]


def test_members_of_archives_are_never_written_by_their_names(put, tmp_path):
    with zipfile.ZipFile(tmp_path / "made", "w") as archive:
        for number, name in enumerate(TRICKS):
            archive.writestr(name, npy().replace(VALUES.tobytes(), (VALUES + number).tobytes()))
        link = zipfile.ZipInfo("link.npy")
        link.external_attr = 0o120777 << 16  # a symbolic link, for who unpacks
        archive.writestr(link, "/etc/passwd")
    data = (tmp_path / "made").read_bytes()
    target = put(data, "a.npz")
    before = sorted(tmp_path.rglob("*"))
    for number, name in enumerate(TRICKS):
        np.testing.assert_array_equal(load(target, member=name.removesuffix(".npy")), VALUES[:3] + number)
    with pytest.raises(WindowLoaderError):
        load(target, member="link")
    assert sorted(tmp_path.rglob("*")) == before


def test_of_two_members_of_one_name_the_last_is_read_as_numpy_does(put, tmp_path, recwarn):
    with zipfile.ZipFile(tmp_path / "made.npz", "w") as archive:
        for values in (VALUES + 1, VALUES):
            archive.writestr("a.npy", npy().replace(VALUES.tobytes(), values.tobytes()))
    recwarn.clear()  # zipfile's own word for the writer
    with np.load(tmp_path / "made.npz") as found:
        expected = found["a"]
    np.testing.assert_array_equal(load(put((tmp_path / "made.npz").read_bytes(), "a.npz")), expected[:3])


def test_a_shape_of_other_integers_is_a_shape(tmp_path):
    (tmp_path / "a.bin").write_bytes(VALUES.tobytes())
    found = load(tmp_path / "a.bin", shape=np.array([40, 6]), dtype=np.float32, offset=np.int64(0))
    np.testing.assert_array_equal(found, VALUES[:3])
    with pytest.raises(SourceFormatError, match=r"takes 936 bytes, but"):
        load(tmp_path / "a.bin", shape=(39, 6), dtype="<f4")
