"""Seeded mutations of files: bytes, JSON documents, headers of .npy files, cells of text."""

from __future__ import annotations

import copy
import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

WORDS = [0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63]
WORDS += [2**64 - 1, 2**64 - 8]
ODD = [
    -1,
    0,
    1,
    -(2**31),
    2**31,
    2**40,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
]
ODD += [
    float("nan"),
    float("inf"),
    float("-inf"),
    None,
    True,
    False,
    "",
    "0",
    "-1",
    "NaN",
    "blosc",
    "<f8",
    "|O",
]
ODD += [
    "M8[ns]",
    "float32",
    "../../x",
    "/etc/passwd",
    "é\0",
    "9" * 5000,
    [],
    {},
    [0],
    [[]],
    [-1],
    [2**63],
    [1.5],
]
ODD += [["a"], {"a": 1}, [1] * 64, [None], [0, 0], [10**9, 10**9], {"name": "zstd", "configuration": {}}]
PYTHON = [
    "()",
    "(,)",
    "-1",
    "0",
    "1e9",
    "10**9",
    "(" * 300,
    "[" * 60,
    "None",
    "True",
    "'",
    '"',
    "\\",
    "0x",
    "1_0",
    "1L",
]
PYTHON += [
    "99999999999999999999",
    "(9223372036854775807, 2)",
    "(4294967296, 4294967296)",
    "(-1, -1)",
    "(3.5,)",
    "O",
]
PYTHON += [
    "__import__('os')",
    "'<f4'",
    "'>f2'",
    "'|V4'",
    "'O'",
    "[('a', '<f4')]",
    "'<U5'",
    "'M8[s]'",
    "{",
    "}",
    "\n",
]
PYTHON += [
    "\0",
    "é",
    "#",
    "lambda: 0",
    "'descr'",
    "'shape'",
    "'fortran_order'",
    ",",
    ":",
    "{'a': 1}",
    "*",
    "1,",
]
CELLS = [
    "",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "?",
    "-",
    "1e309",
    "1,5",
    "1 000",
    "0x1F",
    "true",
    "2012-13-45",
    "9" * 400,
]
CELLS += [
    "2012-03-01",
    "1970",
    "now",
    "\0",
    "\xff",
    '"',
    "'",
    ";",
    "\t",
    ",,",
    "\r",
    "#",
    "=1+1",
    "1.5.2",
    "é",
    "--1",
]
CELLS += [
    "00:05",
    "253402300800",
    "1e18",
    "0001-01-01",
    "9999-12-31 23:59:59",
    "2012-03-01T00:00:00+25:00",
    "NaT",
]


def damage(data: bytes, random: Random, other: bytes = b"") -> bytes:
    """Change bytes: flips, truncation, numbers in place of others, parts left out, doubled or of another file."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = _place(made, random)
        match random.randrange(9):
            case 0 | 1:
                if made:
                    made[at] ^= 1 << random.randrange(8)
            case 2:
                if made:
                    made[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
            case 3:
                del made[random.choice((at, len(made) - random.randrange(1, 9), random.randrange(64))) :]
            case 4:
                width, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
                word = (random.choice(WORDS) % 256**width).to_bytes(width, order)
                made[at : at + width] = word
            case 5:
                del made[at : at + random.choice((1, 2, 4, 8, 64))]
            case 6:
                made[at:at] = made[at : at + random.choice((1, 4, 16, 256))] * random.choice((1, 2, 50))
            case 7:
                size = random.choice((4, 16, 64, 512))
                made[at : at + size] = bytes(size) if random.random() < 0.5 else random.randbytes(size)
            case 8:
                begin = random.randrange(len(other)) if other else 0
                made[at : at + 32] = other[begin : begin + random.choice((8, 32, 128))]
    return bytes(made)


def _place(data: bytearray, random: Random) -> int:
    """Choose a byte; the first and the last, which hold what a file says of itself, more often."""
    if len(data) < 2:
        return 0
    near = min(len(data), random.choice((8, 32, 128, 1024)))
    return random.choice(
        (random.randrange(near), len(data) - 1 - random.randrange(near), random.randrange(len(data)))
    )


def damage_json(text: bytes, random: Random, other: bytes = b"") -> bytes:
    """Change a JSON document: values of other types, absurd numbers, keys gone, unknown or doubled, deep nesting."""
    if random.random() < 0.15:
        return damage(text, random, other)
    document = json.loads(text)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        document = _edit(document, random)
    made = json.dumps(document)
    if random.random() < 0.05:
        deep = random.choice((100, 990, 3000, 100_000))
        made = made.replace(random.choice(("null", "0", "1", "{}")), "[" * deep + "]" * deep, 1)
    if random.random() < 0.05 and '"' in made:
        key = random.choice(made.split('"')[1::2] or ["a"])
        made = made.replace("{", f'{{"{key}": {json.dumps(_odd(random))}, ', 1)
    return made.encode("utf-8", "surrogatepass")


def _edit(document: Any, random: Random) -> Any:
    """Change one value of a document, somewhere."""
    places: list[tuple[Any, Any]] = []
    if isinstance(document, dict | list):
        _collect(document, places)
    if not places:
        return _odd(random)
    holder, key = random.choice(places)
    value = holder[key]
    match random.randrange(8):
        case 0 | 1 | 2:
            holder[key] = _odd(random)
        case 3 if isinstance(value, int | float):
            half = value / 2 if abs(value) < 1 << 1000 else value  # a float has no more
            holder[key] = random.choice((-value, value + 1, value * 1000, half, str(value), 0))
        case 3 if isinstance(value, list):
            holder[key] = random.choice((value * 2, value[:-1], value[::-1], [*value, _odd(random)]))
        case 3 if isinstance(value, str):
            holder[key] = random.choice((value + "x", value[:-1], value.upper(), "\0" + value, value * 1000))
        case 4 if isinstance(holder, dict):
            del holder[key]
        case 5 if isinstance(holder, dict):
            holder[random.choice(("unknown", key + "x", "", "chunks", "shape", "must_understand"))] = value
        case 6:
            holder[key] = random.choice(([value], {"a": value}, {"name": value, "configuration": value}))
        case _:
            other, name = random.choice(places)
            if name in range(len(other)) if isinstance(other, list) else name in other:
                holder[key] = copy.deepcopy(other[name])
    return document


def _collect(document: Any, places: list[tuple[Any, Any]]) -> None:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        places.append((document, key))
        if isinstance(value, dict | list):
            _collect(value, places)


def _odd(random: Random) -> Any:
    return copy.deepcopy(random.choice(ODD))


def damage_npy(data: bytes, random: Random, other: bytes = b"") -> bytes:
    """Change the header of an .npy file as text, its length kept right or not; or any byte."""
    if random.random() < 0.3:
        return damage(data, random, other)
    (length,) = struct.unpack("<H", data[8:10])
    header = damage_text(data[10 : 10 + length].decode("latin1"), random, PYTHON)
    for name in ("shape", "descr", "fortran_order"):
        if random.random() < 0.2:
            header = header.replace(f"'{name}'", f"'{name}': {random.choice(PYTHON)}, 'x'", 1)
    encoded = header.encode("latin1")[: 2**16 - 1]
    if random.random() < 0.1:
        magic, size = (
            bytes([random.choice((1, 2, 3, 4, 255)), 0]),
            struct.pack("<I", random.choice(WORDS) % 2**32),
        )
        return data[:6] + magic + size + encoded + data[10 + length :]
    told = len(encoded) if random.random() < 0.9 else random.randrange(2**16)
    return data[:8] + struct.pack("<H", told) + encoded + data[10 + length :]


def damage_text(text: str, random: Random, tokens: list[str]) -> str:
    """Change a text: words in place of others, parts left out or doubled."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(text) + 1)
        size = random.choice((0, 1, 1, 2, 5))
        match random.randrange(5):
            case 0 | 1:
                text = text[:at] + random.choice(tokens) + text[at + size :]
            case 2:
                text = text[:at] + text[at + random.choice((1, 5, 40)) :]
            case 3:
                text = (
                    text[:at]
                    + text[at : at + random.choice((3, 30, 300))] * random.choice((2, 30))
                    + text[at:]
                )
            case 4:
                numbers = [place for place, sign in enumerate(text) if sign.isdigit()]
                if numbers:
                    at = random.choice(numbers)
                    text = text[:at] + str(random.choice(ODD[:10])) + text[at + 1 :]
    return text


def damage_csv(data: bytes, random: Random, other: bytes = b"") -> bytes:
    """Change cells, lines, separators; or any byte."""
    if random.random() < 0.2:
        return damage(data, random, other)
    lines = data.decode("latin1").split("\n")
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.choice((0, 1, random.randrange(len(lines))))
        cells = lines[at].split(",")
        match random.randrange(7):
            case 0 | 1 | 2:
                cells[random.randrange(len(cells))] = random.choice(CELLS)
                lines[at] = ",".join(cells)
            case 3:
                lines[at] = ",".join(cells[random.randrange(3) :] + cells[: random.randrange(2)])
            case 4:
                lines[at:at] = [lines[at]] * random.choice((1, 3)) if random.random() < 0.5 else [""]
            case 5:
                lines[at] = random.choice(
                    ('"' + lines[at], "," * random.choice((1, 5000)), lines[at].replace(",", ";"))
                )
            case 6:
                lines[at] = damage_text(lines[at], random, CELLS)
    return "\n".join(lines).encode(random.choice(("latin1", "latin1", "utf-8", "utf-16")))


MUTATE: dict[str, Callable[[bytes, Random, bytes], bytes]] = {
    "bytes": damage,
    "json": damage_json,
    "npy": damage_npy,
    "csv": damage_csv,
}
