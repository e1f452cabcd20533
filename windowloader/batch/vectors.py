"""Vector code of the kernels: sixteen values at a time, emitted for one combination of dtypes and options.

In: addresses, and `KernelOptions` that are known when a kernel is compiled. Out: values scaled in float64, cast, masked
and stored. Never reads or writes past ``count`` values, never contracts ``(x - shift) * factor``, and uses no
instruction of one processor: LLVM lowers sixteen lanes to what the machine has.
"""

from __future__ import annotations

import ast
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from .numbers import LANES, filled, from_float64, to_float64

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LANES", "KernelOptions", "convert", "copy_bytes", "copy_lines", "fence", "prefetch", "transpose"]

_LINE = 64
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_F32, _F64 = ir.FloatType(), ir.DoubleType()
_BUILD: Any = cgutils
# numba's cache on disk knows the file of a kernel, not those that emit its instructions.
_FILES = [Path(__file__).with_name(name) for name in ("numbers.py", "vectors.py")]
_STAMP = sha256(b"".join(file.read_bytes() for file in _FILES if file.exists())).hexdigest()[:16]


class KernelOptions(NamedTuple):
    """How the values of a node become its words: compile-time options of `convert`.

    Parameters
    ----------
    source : str
        Dtype of the stored values.
    out : str
        Dtype of the words; "bits" copies those of the source, "mask" says which values were observed.
    columns : int
        Values of each node that touch in the source: those of ``words`` are picked from them. 1: each column has nodes
        that touch, ``node_step`` is not used. 0: nodes lie ``node_step`` bytes from each other.
    picks : tuple of int
        The columns to convert.
    words : tuple of int
        Word k of a node is that of pick ``words[k]``, or value ``-1 - words[k]`` of the row.
    statistics : int
        0: not scaled, 1: one shift and factor for all nodes of a column, 2: one for each node.
    divide : bool
    missing, fill, mask : bool
        Look for missing values; fill them; write masks beside the values.
    apart : bool
        Words of neighbouring nodes touch, and each word of a node has its own place; else the words of a node touch.
    around : bool
        Non-temporal stores; every 16 words begin a cache line, or a half.
    tail : bool
        Convert ``count`` nodes instead of sixteen.
    """

    source: str
    out: str
    columns: int = 1
    picks: tuple[int, ...] = (0,)
    words: tuple[int, ...] = (0,)
    statistics: int = 0
    divide: bool = False
    missing: bool = False
    fill: bool = False
    mask: bool = False
    apart: bool = False
    around: bool = False
    tail: bool = False

    @property
    def code(self) -> str:
        """As a literal that intrinsics receive; part of a kernel's key in the disk cache."""
        return f"{tuple(self)!r}  # {_STAMP}"

    @property
    def word_type(self) -> Any:
        """Type of the words in LLVM."""
        kinds = {"float32": _F32, "float64": _F64, "float16": _I16, "bfloat16": _I16, "mask": _I8}
        return kinds.get(self.out) or _bits_of(_stored(self.source))

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of a stored value, and of a word."""
        return _size(_stored(self.source)), _size(self.word_type)


def _stored(name: str) -> Any:
    if name in ("float32", "float64"):
        return _F32 if name == "float32" else _F64
    return ir.IntType(8 * np.dtype(name).itemsize)


def _size(kind: Any) -> int:
    return {_F32: 4, _F64: 8}.get(kind) or kind.width // 8


def _bits_of(kind: Any) -> Any:
    return ir.IntType(8 * _size(kind))


def _suffix(kind: Any) -> str:
    return {_F32: "f32", _F64: "f64"}.get(kind) or f"i{kind.width}"


def _lanes_of(kind: Any, values: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(kind, len(values)), [ir.Constant(kind, value) for value in values])


class _Emitter:
    """Emits loads, stores and shuffles of sixteen lanes."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def address(self, base: Any, offset: int = 0) -> Any:
        return self.builder.add(base, base.type(offset)) if offset else base

    def pointer(self, base: Any, kind: Any, offset: int = 0) -> Any:
        return self.builder.inttoptr(self.address(base, offset), kind.as_pointer())

    def intrinsic(self, name: str, result: Any, arguments: Sequence[Any]) -> Any:
        kind = ir.FunctionType(result, [value.type for value in arguments])
        function = _BUILD.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def scalar(self, kind: Any, base: Any, offset: int = 0) -> Any:
        """Load what no store of the loop changes, so that it is loaded once per row."""
        found = self.builder.load(self.pointer(base, kind, offset), align=_size(kind))
        found.set_metadata("invariant.load", self.builder.module.add_metadata([]))
        return found

    def shuffle(self, low: Any, high: Any, lanes: Sequence[int]) -> Any:
        return self.builder.shuffle_vector(low, high, _lanes_of(_I32, lanes))

    def splat(self, value: Any) -> Any:
        empty = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        return self.shuffle(self.builder.insert_element(empty, value, _I32(0)), empty, [0] * LANES)

    def below(self, count: Any, first: int = 0) -> Any:
        """Lanes whose number, counted from ``first``, is below ``count``."""
        return self.builder.icmp_signed("<", _lanes_of(_I64, range(first, first + LANES)), self.splat(count))

    def load(self, kind: Any, base: Any, lanes: Any = None, offset: int = 0) -> Any:
        vector = ir.VectorType(kind, LANES)
        pointer = self.pointer(base, vector, offset)
        if lanes is None:
            return self.builder.load(pointer, align=_size(kind))
        arguments = [pointer, _I32(_size(kind)), lanes, ir.Constant(vector, None)]
        return self.intrinsic(f"llvm.masked.load.v{LANES}{_suffix(kind)}.p0", vector, arguments)

    def strided(self, kind: Any, base: Any, step: Any, lanes: Any) -> Any:
        """Load values that lie ``step`` bytes from each other."""
        builder, vector = self.builder, ir.VectorType(kind, LANES)
        places = builder.add(self.splat(base), builder.mul(self.splat(step), _lanes_of(_I64, range(LANES))))
        pointers = builder.inttoptr(places, ir.VectorType(kind.as_pointer(), LANES))
        lanes = filled(_I1, 1) if lanes is None else lanes
        arguments = [pointers, _I32(_size(kind)), lanes, ir.Constant(vector, None)]
        return self.intrinsic(f"llvm.masked.gather.v{LANES}{_suffix(kind)}.v{LANES}p0", vector, arguments)

    def store(
        self, value: Any, base: Any, lanes: Any = None, offset: int = 0, *, around: bool = False
    ) -> None:
        kind = value.type.element
        size, pointer = _size(kind), self.pointer(base, value.type, offset)
        if around:
            stored = self.builder.store(value, pointer, align=min(_LINE, LANES * size))
            stored.set_metadata("nontemporal", self.builder.module.add_metadata([_I32(1)]))
        elif lanes is None:
            self.builder.store(value, pointer, align=size)
        else:
            name = f"llvm.masked.store.v{LANES}{_suffix(kind)}.p0"
            self.intrinsic(name, ir.VoidType(), [value, pointer, _I32(size), lanes])

    def gathered(self, registers: Sequence[Any], wanted: Sequence[tuple[int, int]]) -> Any:
        """Lanes of any registers, each wanted as (register, lane), by as few shuffles of two as possible."""
        first, *others = dict.fromkeys(register for register, _ in wanted)
        lanes = [lane if register == first else 0 for register, lane in wanted]
        found = registers[first]
        if not others:
            return found if lanes == list(range(LANES)) else self.shuffle(found, found, lanes)
        for other in others:
            lanes = [
                LANES + lane if register == other else kept
                for (register, lane), kept in zip(wanted, lanes, strict=True)
            ]
            found, lanes = self.shuffle(found, registers[other], lanes), list(range(LANES))
        return found


# -- sixteen nodes -----------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """What `convert` receives at run time."""

    source: Any
    node_step: Any
    far: Any
    out: Any
    mask: Any
    to: Any
    count: Any
    shift: Any
    factor: Any
    own: Any
    sentinel: Any
    fill: Any
    row: Any


def _columns(emit: _Emitter, c: KernelOptions, at: _Place, lanes: Any) -> list[Any]:
    """Load the stored values of each pick."""
    builder, kind = emit.builder, _stored(c.source)
    if c.columns > 1:
        total = builder.mul(at.count, at.count.type(c.columns))
        registers = [
            emit.load(kind, at.source, emit.below(total, first) if c.tail else None, first * _size(kind))
            for first in range(0, LANES * c.columns, LANES)
        ]
        places = range(LANES)
        return [
            emit.gathered(registers, [divmod(node * c.columns + pick, LANES) for node in places])
            for pick in c.picks
        ]
    found = []
    for number in range(len(c.picks)):
        base = (
            builder.add(at.source, emit.scalar(_I64, at.far, 8 * number)) if len(c.picks) > 1 else at.source
        )
        found.append(
            emit.load(kind, base, lanes) if c.columns else emit.strided(kind, base, at.node_step, lanes)
        )
    return found


def _observed(emit: _Emitter, c: KernelOptions, at: _Place, raw: Any, wide: Any) -> Any:
    """Lanes that are neither NaN nor the sentinel, compared in the dtype of storage; None: all."""
    builder = emit.builder
    if not c.missing:
        return None
    mark = emit.splat(emit.scalar(_stored(c.source), at.sentinel))
    if not c.source.startswith("float"):
        return builder.icmp_unsigned("!=", raw, mark)
    differs = builder.fcmp_unordered("!=", wide, to_float64(builder, c.source, mark))  # also from NaN
    return builder.and_(differs, builder.fcmp_ordered("ord", wide, wide))


def _word_of(
    emit: _Emitter, c: KernelOptions, at: _Place, number: int, raw: Any, lanes: Any
) -> tuple[Any, Any]:
    """Words and masks of a pick."""
    builder = emit.builder
    wide = None if c.out == "bits" and not c.missing else to_float64(builder, c.source, raw)
    seen = _observed(emit, c, at, raw, wide)
    mask = filled(_I8, 1) if seen is None else builder.zext(seen, ir.VectorType(_I8, LANES))
    if c.out == "mask":
        return mask, mask
    if c.out == "bits":
        return builder.bitcast(raw, ir.VectorType(c.word_type, LANES)), mask
    value = wide
    if c.statistics:
        far = builder.mul(at.own, at.own.type(number))
        both = [builder.add(base, far) if number else base for base in (at.shift, at.factor)]
        shift, factor = (
            emit.splat(emit.scalar(_F64, base)) if c.statistics == 1 else emit.load(_F64, base, lanes)
            for base in both
        )
        moved = builder.fsub(value, shift)
        value = builder.fdiv(moved, factor) if c.divide else builder.fmul(moved, factor)
    if c.fill and seen is not None:
        value = builder.select(seen, value, emit.splat(at.fill))
    return from_float64(builder, c.out, value), mask


def _deliver(emit: _Emitter, c: KernelOptions, at: _Place, out: Any, words: list[Any], row: Any) -> None:
    """Store the words of sixteen nodes; ``row`` holds the values of the row, one a lane."""
    builder, around = emit.builder, c.around and out is at.out
    size, group = _size(words[0].type.element if words else row.type.element), len(c.words)
    registers = [*words, row]
    if c.apart:
        lanes = emit.below(at.count) if c.tail else None
        for k, word in enumerate(c.words):
            value = words[word] if word >= 0 else emit.shuffle(row, row, [-1 - word] * LANES)
            offset = builder.mul(emit.scalar(_I64, at.to, 8 * k), _I64(size))
            emit.store(value, builder.add(out, offset), lanes, around=around)
        return
    total = builder.mul(at.count, at.count.type(group))
    for first in range(0, LANES * group, LANES):
        wanted = []
        for node, word in (divmod(place, group) for place in range(first, first + LANES)):
            own = c.words[word]
            wanted.append((own, node) if own >= 0 else (len(words), -1 - own))
        lanes = emit.below(total, first) if c.tail else None
        emit.store(emit.gathered(registers, wanted), out, lanes, first * size, around=around)


def _convert(
    _: Any, code: Any, source: Any, node_step: Any, far: Any, out: Any, mask: Any, to: Any, count: Any, shift: Any,
    factor: Any, own: Any, sentinel: Any, fill: Any, row: Any,
) -> Any:  # fmt: skip
    """Convert sixteen nodes, or ``count`` of them.

    source : of the first node; ``far``: offsets from it by pick, bytes
    out, mask : of the first node; ``to``: offsets from it by word, counted in words
    shift, factor : statistics of the first pick, float64; the next has its own ``own`` bytes behind
    sentinel : a stored value; ``fill``: what takes the place of missing values
    row : words that are the same for all nodes
    All but ``count``, steps and ``fill`` are addresses.
    """
    if not isinstance(code, types.StringLiteral):
        return None  # only as a compile-time constant
    c = KernelOptions(*ast.literal_eval(code.literal_value))

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        emit, at = _Emitter(builder), _Place(*given[1:])
        lanes = emit.below(at.count) if c.tail else None
        found = [
            _word_of(emit, c, at, number, raw, lanes)
            for number, raw in enumerate(_columns(emit, c, at, lanes))
        ]
        beside = ir.Constant(ir.VectorType(c.word_type, LANES), None)
        for k in range(sum(word < 0 for word in c.words)):
            value = emit.scalar(c.word_type, at.row, k * _size(c.word_type))
            beside = builder.insert_element(beside, value, _I32(k))
        _deliver(emit, c, at, at.out, [word for word, _ in found], beside)
        if c.mask:
            _deliver(emit, c, at, at.mask, [mask for _, mask in found], filled(_I8, 1))
        return context.get_dummy_value()

    arguments = (
        source, node_step, far, out, mask, to, count, shift, factor, own, sentinel, fill, row
    )  # fmt: skip
    return types.void(code, *arguments), generate


def _transpose(
    _: Any, size: Any, fixed: Any, source: Any, pitch: Any, out: Any, apart: Any, depth: Any, nodes: Any
) -> Any:
    """Write words of up to sixteen nodes from planes, ``pitch`` bytes apart, to places ``apart`` bytes apart.

    ``depth`` planes are used, at most sixteen, and ``nodes`` nodes; sixteen of each are read. ``fixed``: the depth
    where it is always the same; -1: sixteen words, which begin a cache line, by non-temporal stores.
    """
    if not isinstance(size, types.IntegerLiteral) or not isinstance(fixed, types.IntegerLiteral):
        return None
    width, around = size.literal_value, fixed.literal_value < 0
    known = LANES if around else fixed.literal_value

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        _, _, source, pitch, out, apart, depth, nodes = given
        emit, kind = _Emitter(builder), ir.IntType(8 * width)
        planes = known or LANES
        rows = [emit.load(kind, builder.add(source, builder.mul(pitch, _I64(k)))) for k in range(planes)]
        rows += [ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)] * (LANES - planes)
        every = range(LANES)
        for step in (1, 2, 4, 8):
            low = [lane if not lane & step else LANES + lane - step for lane in every]
            high = [lane + step if not lane & step else LANES + lane for lane in every]
            for i in (lane for lane in every if not lane & step):
                pair = rows[i], rows[i + step]
                rows[i], rows[i + step] = emit.shuffle(*pair, low), emit.shuffle(*pair, high)
        lanes = _lanes_of(_I1, [lane < known for lane in every]) if known else emit.below(depth)
        for i, row in enumerate(rows):
            with builder.if_then(builder.icmp_signed(">", nodes, _I64(i)), likely=True):
                place = builder.add(out, builder.mul(apart, _I64(i)))
                emit.store(row, place, None if known == LANES else lanes, around=around)
        return context.get_dummy_value()

    return types.void(size, fixed, source, pitch, out, apart, depth, nodes), generate


# -- bytes -------------------------------------------------------------------------------------------------------------


def _copy_bytes(_: Any, out: Any, source: Any, count: Any) -> Any:
    """Copy by the C library's memcpy."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        pointers = [builder.inttoptr(address, _I8.as_pointer()) for address in given[:2]]
        _BUILD.raw_memcpy(builder, *pointers, given[2], 1)
        return context.get_dummy_value()

    return types.void(out, source, count), generate


def _copy_lines(_: Any, out: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` cache lines to an aligned address by non-temporal stores."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        emit = _Emitter(builder)
        with _BUILD.for_range(builder, given[2]) as loop:
            offset = builder.mul(loop.index, loop.index.type(_LINE))
            line = emit.load(_I32, builder.add(given[1], offset))
            emit.store(line, builder.add(given[0], offset), around=True)
        return context.get_dummy_value()

    return types.void(out, source, count), generate


def _prefetch(_: Any, address: Any) -> Any:
    """Prefetch a cache line into the second-level cache; any address does no harm."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        pointer = builder.inttoptr(given[0], _I8.as_pointer())
        _Emitter(builder).intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(address), generate


def _fence(_: Any) -> Any:
    """Make non-temporal stores visible to other threads before any later store."""

    def generate(context: Any, builder: Any, _signature: Any, _given: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


convert: Any = intrinsic(prefer_literal=True)(_convert)
transpose: Any = intrinsic(prefer_literal=True)(_transpose)
copy_bytes: Any = intrinsic(_copy_bytes)
copy_lines: Any = intrinsic(_copy_lines)
prefetch: Any = intrinsic(_prefetch)
fence: Any = intrinsic(_fence)
