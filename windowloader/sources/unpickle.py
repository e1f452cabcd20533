"""Reads pickles of plain data without running anything that they name.

In: the bytes of a pickle: DCRNN's ``adj_mx.pkl``, from Python 2; an attribute of a frame in HDF5. Out: lists, tuples,
dicts, strings, numbers, NumPy arrays; of an attribute also steps and zones of time. Never imports or calls what a
pickle names. Of ``adj_mx.pkl`` it never makes more than a fixed multiple of its size: no object but text and bytes can
be in the result twice, so that walking through it takes no longer.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from windowloader.errors import SourceFormatError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["load_attribute", "load_plain"]

CODES = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,3}")
OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING "
    "SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL "
    "REDUCE PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET"
)
STEPS = ("pandas._libs.tslibs.offsets", "pandas.tseries.offsets")
ZONES = (("datetime", "timezone"), ("datetime", "timedelta"), ("zoneinfo", "ZoneInfo"))
INTEGERS = "INT LONG LONG1 LONG4"


def load_plain(data: bytes) -> Any:
    """Read a pickle that holds nothing but containers, strings, numbers and arrays.

    Parameters
    ----------
    data : bytes
        The pickle.

    Returns
    -------
    object

    Raises
    ------
    SourceFormatError
        Where the pickle names anything else, or is none.

    Examples
    --------
    >>> load_plain(pickle.dumps({"a": [1, 2.5]}))
    {'a': [1, 2.5]}
    """
    try:
        return _Plain(data).load()
    except SourceFormatError:
        raise
    except Exception as error:
        raise SourceFormatError(
            f"this is no pickle of plain data: {type(error).__name__}: {error}"
        ) from error


def load_attribute(data: bytes) -> Any:
    """Read a pickle that PyTables keeps in an attribute: lists, text, numbers, and steps and zones of time.

    Raises
    ------
    SourceFormatError
        Where it names anything else.
    """
    try:
        return _Attribute(io.BytesIO(data), encoding="latin1").load()
    except SourceFormatError:
        raise
    except Exception as error:
        raise SourceFormatError(f"it is no whole pickle: {type(error).__name__}: {error}") from error


class _Attribute(pickle.Unpickler):
    """Makes nothing but what pandas itself writes beside a frame."""

    def find_class(self, module: str, name: str) -> Any:
        """Resolve names of steps and zones of time; what else a module holds is refused."""
        from pandas.tseries import offsets

        if (module, name) in (("builtins", "getattr"), ("__builtin__", "getattr")):
            return _unpickle_zone
        found = vars(offsets).get(name) if module in STEPS else None
        if isinstance(found, type) and issubclass(found, offsets.BaseOffset):
            return found
        if (module, name) in ZONES:
            return super().find_class(module, name)
        raise SourceFormatError(f"it is a pickle that names {module}.{name}, which could run code.")


def _unpickle_zone(kind: object, name: object) -> Any:
    """Stand-in for ``getattr``, by which zones are pickled."""
    if kind is not ZoneInfo or name != "_unpickle":
        raise SourceFormatError("it is a pickle that names an attribute, which could run code.")
    return ZoneInfo._unpickle  # type: ignore[attr-defined]


class _Dtype:
    """Stand-in for ``numpy.dtype``: a type code, and later a byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        name = code.decode() if isinstance(code, bytes) else code
        if not (isinstance(name, str) and CODES.fullmatch(name)):
            raise SourceFormatError("a pickled dtype is refused that is none of a number, text or bytes.")
        self.dtype = np.dtype(name)

    def set_order(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise SourceFormatError("a pickled dtype is refused that has more than a byte order.")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Memo(dict[int, Any]):
    def __getitem__(self, index: int) -> Any:
        value = super().__getitem__(index)
        if isinstance(value, (str, bytes, np.generic, _Dtype)) or callable(value) or value is _NDARRAY:
            return value
        raise SourceFormatError(f"a {type(value).__name__} is refused that is in a pickle several times.")


_NDARRAY = object()  # stands for the class numpy.ndarray, which pickles only ever hand to _reconstruct


class _Plain(pickle._Unpickler):
    """The unpickler of the standard library, in Python, with the opcodes and names that plain data need."""

    stack: list[Any]

    def __init__(self, data: bytes) -> None:
        super().__init__(
            io.BytesIO(data), encoding="latin1"
        )  # of text that Python 2 wrote; its arrays need it
        self.memo = _Memo()
        self.left = 2 * len(data)  # bytes that may be decoded and put in arrays: each once
        names: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): _NDARRAY,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): self.encoded,
        }
        for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
            names[f"{core}.multiarray", "_reconstruct"] = self.empty
            names[f"{core}.multiarray", "scalar"] = self.scalar
            names[f"{core}.numeric", "_frombuffer"] = self.from_buffer
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        """Resolve names from a table."""
        try:
            return self.names[module, name]
        except KeyError:
            if module.endswith("\r"):
                raise SourceFormatError(
                    "its line ends were changed in transfer, as a text file's are. Copy it anew in binary mode."
                ) from None
            advice = (
                "Save sparse matrices with scipy.sparse.save_npz, others with numpy.save."
                if module.startswith(("scipy", "pandas", "torch"))
                else "Do not open it with pickle either, unless you know who wrote it."
            )
            raise SourceFormatError(
                f"the pickle names {module}.{name}, but only lists, dicts, strings, numbers and NumPy arrays "
                f"are admitted. {advice}"
            ) from None

    def encoded(self, text: str, encoding: str) -> bytes:
        """Stand-in for ``codecs.encode``, by which old protocols write bytes; others could decompress bombs."""
        if encoding != "latin1":
            raise SourceFormatError(
                f"codec {encoding!r} in a pickle is not needed for plain data and refused."
            )
        self.spend(len(text))
        return text.encode("latin1")

    def empty(self, kind: object, shape: object, _code: object) -> np.ndarray:
        """Stand-in for NumPy's ``_reconstruct``: an empty array that BUILD fills."""
        if kind is not _NDARRAY or shape != (0,):
            raise SourceFormatError("a pickled array is refused that is no plain numpy.ndarray.")
        return np.empty(0, np.uint8)

    def scalar(self, kind: _Dtype, data: bytes | str) -> Any:
        """Stand-in for NumPy's ``scalar``: a number from its bytes."""
        return np.frombuffer(self.contents(data, kind, (1,)), kind.dtype)[0]

    def from_buffer(self, data: bytes, kind: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
        """Stand-in for NumPy's ``_frombuffer``, by which protocol 5 writes contiguous arrays."""
        flat = np.frombuffer(self.contents(data, kind, shape), kind.dtype)
        return flat.reshape(shape, order="F" if order == "F" else "C")

    def contents(self, data: bytes | str, kind: _Dtype, shape: tuple[int, ...]) -> bytes:
        """Return the bytes of an array, as many as its shape and dtype take."""
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.spend(len(raw))
        if min(shape, default=0) < 0 or math.prod(shape) * kind.dtype.itemsize != len(raw):
            raise SourceFormatError(
                f"a pickled array has {len(raw)} bytes, which do not make shape {shape} of {kind.dtype}."
            )
        return raw

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise SourceFormatError("a pickle is refused that uses the same bytes several times.")

    def build(self) -> None:
        """Give a dtype its byte order, or an empty array its contents; nothing else has a state."""
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, _Dtype):
            made.set_order(state)
        elif isinstance(made, np.ndarray) and isinstance(state, tuple):
            shape, kind, fortran, data = state[-4:]  # after a version
            filled: Any = (1, shape, kind.dtype, bool(fortran), self.contents(data, kind, shape))
            made.__setstate__(filled)
        else:
            raise SourceFormatError("a pickle is refused that sets the state of an object.")


def _bounded(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Refuse integers beyond 64 bits: as keys of a dict they could be chosen to collide."""

    def load_integer(reader: Any) -> None:
        load(reader)
        if reader.stack[-1].bit_length() > 64:
            raise SourceFormatError("an integer of more than 64 bits in a pickle is refused.")

    return load_integer


def _dispatch() -> dict[int, Callable[[Any], None]]:
    """Return what reads each opcode; others than those listed are errors."""
    known: dict[int, Any] = pickle._Unpickler.dispatch
    codes = {name: getattr(pickle, name)[0] for name in f"{OPCODES} {INTEGERS}".split()}
    reads = {code: known[code] for code in codes.values()}
    reads |= {codes[name]: _bounded(known[codes[name]]) for name in INTEGERS.split()}
    # as bytes, which take no room before they are read
    return reads | {pickle.BYTEARRAY8[0]: known[pickle.BINBYTES8[0]], pickle.BUILD[0]: _Plain.build}


_Plain.dispatch = _dispatch()
