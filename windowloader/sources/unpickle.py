"""Reads pickles of plain data without running anything that they name.

In: the bytes of a pickle: DCRNN's ``adj_mx.pkl``, from Python 2; an attribute of a frame in HDF5. Out: lists, tuples,
dicts, strings, numbers, NumPy arrays; of an attribute also steps and zones of time. Never imports or calls what a
pickle names. Of ``adj_mx.pkl`` it never makes more than a fixed multiple of its size: no object but text and bytes can
be in the result twice, so that walking through it takes no longer.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import TYPE_CHECKING, Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np

from windowloader.errors import SourceFormatError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["load_attribute", "load_plain"]

CODES = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,3}")
OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING "
    "BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS GLOBAL "
    "STACK_GLOBAL REDUCE PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET"
)
STEPS = ("pandas._libs.tslibs.offsets", "pandas.tseries.offsets")
ZONES = ("datetime.timezone", "datetime.timedelta", "zoneinfo.ZoneInfo")


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
    return _loaded(_Plain(data), "this is no pickle of plain data")


def load_attribute(data: bytes) -> Any:
    """Read a pickle that PyTables keeps in an attribute: lists, text, numbers, and steps and zones of time.

    Raises
    ------
    SourceFormatError
        Where it names anything else.
    """
    return _loaded(_Attribute(io.BytesIO(data), encoding="latin1"), "it is no whole pickle")


def _loaded(reader: Any, problem: str) -> Any:
    try:
        return reader.load()
    except SourceFormatError:
        raise
    except Exception as error:
        raise SourceFormatError(f"{problem}: {type(error).__name__}: {error}") from error


class _Attribute(pickle.Unpickler):
    """Makes nothing but what pandas itself writes beside a frame."""

    def find_class(self, module: str, name: str) -> Any:
        """Resolve names of steps and zones of time; what else a module holds is refused."""
        from pandas.tseries import offsets

        if f"{module}.{name}" in ZONES or (module in STEPS and name in vars(offsets)["__all__"]):
            return super().find_class(module, name)
        if f"{module}.{name}" in ("builtins.getattr", "__builtin__.getattr"):
            return _unpickle_zone
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


class _Memo(dict[int, Any]):
    def __getitem__(self, index: int) -> Any:
        value = super().__getitem__(index)
        if isinstance(value, (str, bytes, np.generic, _Dtype)) or callable(value):
            return value
        raise SourceFormatError(f"a {type(value).__name__} is refused that is in a pickle several times.")


def _ndarray() -> None:
    """Stand-in for ``numpy.ndarray``, which pickles only ever hand to ``_reconstruct``."""


def _reconstruct(kind: object, shape: object, _code: object) -> np.ndarray:
    """Stand-in for NumPy's: an empty array, in whose place BUILD puts one with its contents."""
    if kind is not _ndarray or shape != (0,):
        raise SourceFormatError("a pickled array is refused that is no plain numpy.ndarray.")
    return np.empty(0, np.uint8)


def _bounded(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Refuse integers beyond 64 bits: as keys of a dict they could be chosen to collide."""

    def load_bounded(reader: Any) -> None:
        load(reader)
        if reader.stack and isinstance(reader.stack[-1], int) and reader.stack[-1].bit_length() > 64:
            raise SourceFormatError("an integer of more than 64 bits in a pickle is refused.")

    return load_bounded


class _Plain(pickle._Unpickler):
    """The unpickler of the standard library, in Python, with the opcodes and names that plain data need."""

    stack: list[Any]

    def __init__(self, data: bytes) -> None:
        # the encoding is that of text that Python 2 wrote; its arrays need it
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.memo = _Memo()
        self.left = 2 * len(data)  # bytes that may be decoded and put in arrays: each once
        self.names: dict[str, Any] = {
            "numpy.ndarray": _ndarray,
            "numpy.dtype": _Dtype,
            "_codecs.encode": self.encoded,
            "multiarray._reconstruct": _reconstruct,
            "multiarray.scalar": lambda kind, data: self.array(data, kind, (1,))[0],
            "numeric._frombuffer": self.array,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Resolve names from a table, those of NumPy 1 and 2 alike."""
        for core in ("numpy.core.", "numpy._core."):
            module = module.removeprefix(core)
        if f"{module}.{name}" in self.names:
            return self.names[f"{module}.{name}"]
        raise SourceFormatError(
            f"the pickle names {module}.{name}, but only lists, dicts, strings, numbers and NumPy arrays are admitted. "
            "If you trust it, open it by pickle and save it by scipy.sparse.save_npz or numpy.save."
        )

    def encoded(self, text: str, encoding: str = "latin1") -> bytes:
        """Stand-in for ``codecs.encode``, by which old protocols write bytes; others could decompress bombs."""
        if encoding != "latin1":
            raise SourceFormatError(f"the codec {encoding!r} is refused in a pickle of plain data.")
        return bytes(self.once(text), "latin1")

    def once(self, data: Any) -> Any:
        """Return bytes or text, where they were not used before."""
        self.left -= len(data)
        if self.left < 0:
            raise SourceFormatError("a pickle is refused that uses the same bytes several times.")
        return data

    def array(self, data: bytes | str, kind: _Dtype, shape: tuple[int, ...], order: Any = "C") -> np.ndarray:
        """Return an array over bytes, as many as its shape and dtype take."""
        raw = self.encoded(data) if isinstance(data, str) else self.once(data)
        found: np.ndarray = np.ndarray(shape, kind.dtype, raw, order=order)
        if found.nbytes != len(raw):
            raise SourceFormatError(f"a pickled array of {len(raw)} bytes is not {shape} of {kind.dtype}.")
        return found

    def build(self) -> None:
        """Give a dtype its byte order, or put an array with contents in place of an empty one."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Dtype) and state[1] in ("<", ">", "|", "=") and not any(state[2:5]):
            made.dtype = made.dtype.newbyteorder(state[1])
        elif isinstance(made, np.ndarray):
            shape, kind, fortran, data = state[-4:]  # after a version
            self.stack[-1] = self.array(data, kind, shape, "F" if fortran else "C")
        else:
            raise SourceFormatError("a pickle is refused that sets the state of an object.")

    dispatch: ClassVar[dict[int, Any]] = {
        getattr(pickle, name)[0]: _bounded(pickle._Unpickler.dispatch[getattr(pickle, name)[0]])
        for name in OPCODES.split()
    }
    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]  # takes no room before it is read
    dispatch[pickle.BUILD[0]] = build
