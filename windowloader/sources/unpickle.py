"""Reads pickles of plain data without running anything that they name.

In: the bytes of a pickle: DCRNN's ``adj_mx.pkl``, from Python 2; an attribute of a frame in HDF5. Out: lists, tuples,
dicts, strings, numbers, NumPy arrays; of an attribute also steps and zones of time. Never imports or calls what a
pickle names, and takes no more memory than a small multiple of its size.
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
STEPS = ("pandas._libs.tslibs.offsets", "pandas.tseries.offsets")
ZONES = ("datetime.timezone", "datetime.timedelta", "zoneinfo.ZoneInfo")


def load_plain(data: bytes) -> Any:
    """Read a pickle that holds nothing but containers, strings, numbers and arrays.

    Containers may be in the result several times, so that walking through all of it may take exponential time.

    Raises
    ------
    SourceFormatError
        Where the pickle names anything else, or is none.

    Examples
    --------
    >>> load_plain(pickle.dumps({"a": [1, 2.5]}))
    {'a': [1, 2.5]}
    """
    return _loaded(_Plain(data), "this is not a pickle of plain data")


def load_attribute(data: bytes) -> Any:
    """Read a pickle that PyTables keeps in an attribute: lists, text, numbers, and steps and zones of time.

    Raises
    ------
    SourceFormatError
        Where it names anything else.
    """
    return _loaded(_Attribute(io.BytesIO(data), encoding="latin1"), "it is not a complete pickle")


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
        """Resolve names of steps and zones of time; all others are refused."""
        from pandas.tseries import offsets

        if f"{module}.{name}" in ZONES or (module in STEPS and name in vars(offsets)["__all__"]):
            return super().find_class(module, name)
        if f"{module}.{name}" in ("builtins.getattr", "__builtin__.getattr"):
            return _unpickle_zone
        raise SourceFormatError(f"it is a pickle that names {module}.{name}, which could run code.")


def _unpickle_zone(kind: object, name: object) -> Any:
    """Stand-in for ``getattr``, with which zones are pickled."""
    if kind is not ZoneInfo or name != "_unpickle":
        raise SourceFormatError("it is a pickle that names an attribute, which could run code.")
    return ZoneInfo._unpickle  # type: ignore[attr-defined]


class _Dtype:
    """Stand-in for ``numpy.dtype``: a type code, and later a byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        name = code.decode() if isinstance(code, bytes) else code
        if not (isinstance(name, str) and CODES.fullmatch(name)):
            raise SourceFormatError("a pickled dtype is refused that is not one of numbers, text or bytes.")
        self.dtype = np.dtype(name)


def _ndarray() -> None:
    """Stand-in for ``numpy.ndarray``, which pickles only pass to ``_reconstruct``."""


def _reconstruct(kind: object, shape: object, _code: object) -> np.ndarray:
    """Stand-in for NumPy's: an empty array, which BUILD replaces by one with its contents."""
    if kind is not _ndarray or shape != (0,):
        raise SourceFormatError("a pickled array is refused that is not a plain numpy.ndarray.")
    return np.empty(0, np.uint8)


class _Plain(pickle._Unpickler):
    """The unpickler of the standard library, in Python, with stand-ins for the names that plain data need."""

    stack: list[Any]

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")  # of arrays from Python 2
        self.encodings: dict[str, bytes] = {}
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
        """Stand-in for ``codecs.encode``, with which old protocols write bytes; each text is encoded once."""
        if encoding != "latin1":
            raise SourceFormatError(f"the codec {encoding!r} is refused in a pickle of plain data.")
        return self.encodings.setdefault(text, bytes(text, "latin1"))

    def array(self, data: bytes | str, kind: _Dtype, shape: tuple[int, ...], order: Any = "C") -> np.ndarray:
        """Return an array over bytes, as many as its shape and dtype take."""
        raw = self.encoded(data) if isinstance(data, str) else data
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

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],  # allocates after reading
        pickle.BUILD[0]: build,
    }
