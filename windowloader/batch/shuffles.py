"""Words that change places within a register, where a plain loop would move them one by one.

In: arrays and positions in them, patterns that are known when a loop is compiled. Out: words, written. Never checks a
position: sixteen words are read and written at a time, whatever is used of them. The compiler makes of it what the
processor has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BESIDE", "LANES", "MOST", "pattern_of", "split", "turn", "weave"]

LANES = 16  # words at a time: a whole register, or a few
MOST = 8  # words a node, on either side
BESIDE = 15  # in a pattern: the word is no value of the node's
_DIGIT = 4  # bits


def pattern_of(columns: int, words: Sequence[int]) -> int:
    """Write down what `weave` does to the ``columns`` values of each node.

    Parameters
    ----------
    columns : int
        Values that each node has, at most `MOST`.
    words : sequence of int
        For each word that the node gets, which value, or `BESIDE`; at most `MOST`.

    Returns
    -------
    int

    Examples
    --------
    >>> hex(pattern_of(2, [1, 0, BESIDE]))
    '0xf0132'
    """
    digits = [columns, len(words), *words]
    return sum(digit << (_DIGIT * place) for place, digit in enumerate(digits))


def _read(pattern: int) -> tuple[int, int, list[int]]:
    columns, count, *words = ((pattern >> (_DIGIT * place)) & 15 for place in range(2 + MOST))
    return columns, count, words[:count]


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, lanes: int) -> Any:
    """Address of ``array[at]`` as that of ``lanes`` words."""
    data = context.make_array(kind)(context, builder, array).data
    words = ir.VectorType(data.type.pointee, lanes)
    return builder.bitcast(builder.gep(data, [at]), words.as_pointer())


def _load(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    return builder.load(_pointer(context, builder, kind, array, at, LANES), align=size)


def _store(context: Any, builder: Any, kind: Any, array: Any, at: Any, value: Any) -> None:
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    builder.store(value, _pointer(context, builder, kind, array, at, value.type.count), align=size)


def _shuffled(builder: Any, low: Any, high: Any, lanes: Sequence[int]) -> Any:
    """Lanes of two registers, counted through both."""
    word = ir.IntType(32)
    mask = ir.Constant(ir.VectorType(word, len(lanes)), [ir.Constant(word, lane) for lane in lanes])
    return builder.shuffle_vector(low, high, mask)


def _weave(_: Any, out: Any, to: Any, values: Any, at: Any, beside: Any, pattern: Any) -> Any:
    """Write the words of sixteen nodes from ``out[to]`` on: of their values, from ``values[at]``, and of ``beside``.

    ``beside[k]`` is every node's word k where the pattern says so.
    """
    if not isinstance(pattern, types.IntegerLiteral):
        return None  # known when compiled, or not at all
    columns, count, words = _read(pattern.literal_value)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        lanes = context.get_constant(types.uint64, LANES)
        own = _registers(context, builder, kinds[2], given[2], given[3], columns)
        own.append(_load(context, builder, kinds[4], given[4], context.get_constant(types.intp, 0)))
        goal = given[1]
        for first in range(0, LANES * count, LANES):
            wanted = []  # register and lane of each word
            for number in range(first, first + LANES):
                node, word = divmod(number, count)
                if words[word] == BESIDE:
                    wanted.append((columns, word))
                else:
                    wanted.append(divmod(node * columns + words[word], LANES))
            _store(context, builder, kinds[0], given[0], goal, _gathered(builder, own, wanted))
            goal = builder.add(goal, lanes)
        return context.get_dummy_value()

    return types.void(out, to, values, at, beside, pattern), generate


def _split(_: Any, out: Any, to: Any, apart: Any, values: Any, at: Any, columns: Any) -> Any:
    """Write each column of sixteen nodes, from ``values[at]`` on, to a row of its own, ``apart`` from the next."""
    if not isinstance(columns, types.IntegerLiteral):
        return None
    width = columns.literal_value

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        own = _registers(context, builder, kinds[3], given[3], given[4], width)
        goal = given[1]
        for column in range(width):
            wanted = [divmod(node * width + column, LANES) for node in range(LANES)]
            _store(context, builder, kinds[0], given[0], goal, _gathered(builder, own, wanted))
            goal = builder.add(goal, given[2])
        return context.get_dummy_value()

    return types.void(out, to, apart, values, at, columns), generate


def _registers(context: Any, builder: Any, kind: Any, array: Any, at: Any, count: int) -> list[Any]:
    """Load ``count`` times sixteen words."""
    found = []
    for _number in range(count):
        found.append(_load(context, builder, kind, array, at))
        at = builder.add(at, context.get_constant(types.uint64, LANES))
    return found


def _gathered(builder: Any, registers: Sequence[Any], wanted: Sequence[tuple[int, int]]) -> Any:
    """Lanes of any registers, by as few shuffles of two."""
    needed = list(dict.fromkeys(register for register, _ in wanted))
    found = registers[needed[0]]
    lanes = [lane if register == needed[0] else 0 for register, lane in wanted]
    if len(needed) == 1:
        return _shuffled(builder, found, found, lanes)
    for number, more in enumerate(needed[1:]):
        if number:
            lanes = list(range(LANES))  # those that are there stay where they are
        lanes = [
            LANES + lane if register == more else kept
            for (register, lane), kept in zip(wanted, lanes, strict=True)
        ]
        found = _shuffled(builder, found, registers[more], lanes)
    return found


def _turn(_: Any, out: Any, to: Any, apart: Any, values: Any, at: Any, row: Any) -> Any:
    """Turn four rows of sixteen words, ``row`` apart, into sixteen of four, ``apart`` from each other."""
    four = range(4)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        place, rows = given[4], []
        for _row in four:
            rows.append(_load(context, builder, kinds[3], given[3], place))
            place = builder.add(place, given[5])
        low = [4 * quad + lane for quad in four for lane in (0, LANES, 1, LANES + 1)]
        high = [lane + 2 for lane in low]
        firsts = [_shuffled(builder, rows[0], rows[1], lanes) for lanes in (low, high)]
        seconds = [_shuffled(builder, rows[2], rows[3], lanes) for lanes in (low, high)]
        near = [4 * quad + lane for quad in four for lane in (0, 1, LANES, LANES + 1)]
        far = [lane + 2 for lane in near]
        nodes = [
            _shuffled(builder, firsts[half], seconds[half], lanes) for half in (0, 1) for lanes in (near, far)
        ]
        goal = given[1]
        for node in range(LANES):
            whole = nodes[node % 4]
            lanes = [4 * (node // 4) + lane for lane in four]
            _store(context, builder, kinds[0], given[0], goal, _shuffled(builder, whole, whole, lanes))
            goal = builder.add(goal, given[2])
        return context.get_dummy_value()

    return types.void(out, to, apart, values, at, row), generate


weave: Any = intrinsic(prefer_literal=True)(_weave)
split: Any = intrinsic(prefer_literal=True)(_split)
turn: Any = intrinsic(_turn)
