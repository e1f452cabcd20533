"""Pickles of plain data, read without running anything.

In: a file that somebody pickled (DCRNN's ``adj_mx.pkl``, from Python 2). Out: lists, tuples, dicts, strings,
numbers, NumPy arrays. Never imports or calls what the file names, apart from the constructors of arrays.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import GraphError

if TYPE_CHECKING:
    import os

__all__ = ["load_plain"]


def load_plain(path: str | os.PathLike[str]) -> Any:
    """Read a pickle that holds nothing but containers, strings, numbers and arrays.

    Parameters
    ----------
    path : path-like
        The file; text of Python 2 is read as latin-1, which its arrays need.

    Returns
    -------
    object

    Raises
    ------
    GraphError
        Where the pickle names anything else, or is none.
    """
    with open(path, "rb") as file:
        try:
            return _Plain(file, encoding="latin1").load()
        except GraphError as error:
            raise GraphError(f"{str(path)!r}: {error}") from None
        except (
            pickle.UnpicklingError,
            EOFError,
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            AttributeError,
        ) as error:
            raise GraphError(
                f"{str(path)!r} is no pickle of plain data: {type(error).__name__}: {error}"
            ) from error
        except (MemoryError, OverflowError, ImportError) as error:
            raise GraphError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}") from error


def _bytes_of(text: str, encoding: str) -> bytes:
    """Stand-in for ``codecs.encode``, by which old protocols write bytes; others could decompress bombs."""
    if encoding != "latin1":
        raise GraphError(f"codec {encoding!r} in a pickle is not needed for plain data and refused.")
    return text.encode("latin1")


def _array(kind: object, shape: tuple[int, ...], typecode: bytes | str) -> np.ndarray:
    """Stand-in for NumPy's ``_reconstruct``: an empty ndarray that the next instruction fills."""
    if kind is not _NDARRAY or tuple(shape) != (0,):
        raise GraphError(f"an array of {kind} and shape {shape} in a pickle is refused.")
    return np.ndarray.__new__(
        np.ndarray, (0,), typecode.decode() if isinstance(typecode, bytes) else typecode
    )


def _scalar(dtype: np.dtype, data: bytes | str) -> Any:
    """Stand-in for NumPy's ``scalar``: a number from its bytes."""
    if dtype.hasobject:
        raise GraphError("an object in a pickled number is refused.")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype)[0]


def _from_buffer(data: bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Stand-in for NumPy's ``_frombuffer``, by which protocol 5 writes contiguous arrays."""
    if dtype.hasobject:
        raise GraphError("an array of objects in a pickled buffer is refused.")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


_NDARRAY = object()  # stands for the class numpy.ndarray, which pickles only ever hand to _reconstruct
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes_of,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _array
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _scalar
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Plain(pickle.Unpickler):
    """Resolves names from a table, and so imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            advice = (
                "Save sparse matrices with scipy.sparse.save_npz, others with numpy.save."
                if module.startswith(("scipy", "pandas", "torch"))
                else "Do not open it with pickle either, unless you know who wrote it."
            )
            raise GraphError(
                f"the pickle names {module}.{name}, but only lists, dicts, strings, numbers and NumPy arrays "
                f"are admitted. {advice}"
            ) from None
