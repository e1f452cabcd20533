"""Graphs as files have them: npz, npy, CSV and text, and DCRNN's pickle.

In: a path. Out: `Edges`. Never unpickles anything but plain data, and never reads a list of edges as a
matrix.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from windowloader.errors import GraphError, MissingExtraError, SourceError, SourceNotFoundError
from windowloader.sources.foreign import guarded
from windowloader.sources.handles import nearby
from windowloader.sources.numpy_files import Archive, open_npz_archive, read_npy
from windowloader.sources.unpickle import load_plain
from windowloader.util.labels import as_labels, counts, find, listed, order, text_of, texts

from .edges import Edges

__all__ = ["lists_edges", "read_graph", "table_edges"]

SOURCES = ("from", "source", "src", "start", "i", "from_node", "sender", "u")
TARGETS = ("to", "target", "dst", "end", "j", "to_node", "receiver", "v")
WEIGHTS = ("weight", "w", "cost", "distance", "value", "edge_weight", "weights")
TEXTS = (".csv", ".txt")
LARGEST = (
    32 << 20
)  # bytes of text that a compressed file may hold: as a table it takes some twenty times as much
UNREADABLE = (
    ValueError,
    SourceError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    csv.Error,
    OverflowError,
    MemoryError,
)
SCATTERED = 10  # times as many numbers as nodes that have an edge: then they are labels
SPARSE = ("csr", "csc", "bsr", "coo", "dia")
ADJACENCIES = ("adj", "adjacency", "adj_mx", "adjacency_matrix", "weights", "W", "A")


@guarded
def read_graph(
    path: str | os.PathLike[str], *, nodes: Any = None, ends: str | None = None, more: bool = False
) -> Edges:
    """Read the edges of a graph; `Graph.load` says which files. ``more``: a list may join nodes beside ``nodes``."""
    if ends not in (None, "labels", "numbers"):
        raise GraphError(f"ends={ends!r}: a list of edges is written in 'labels' or in 'numbers'.")
    file = Path(path)
    if os.path.isdir(file):
        raise GraphError(
            f"{str(path)!r} is a folder, and a graph is read from a file: .npz, .npy, .csv, .txt or .pkl."
        )
    if not os.path.isfile(file):
        raise SourceNotFoundError(
            f"no graph at {str(path)!r}: there is no such file (looked for {os.path.abspath(path)}). {nearby(path)}"
        )
    suffix = _suffix(file)
    readers: dict[str, Callable[[Path, Any], Edges]] = {
        ".npz": _npz, ".npy": _npy, ".pkl": _pickle, ".pickle": _pickle,
        **dict.fromkeys(TEXTS, lambda file, nodes: _text(file, nodes, ends, more)),
    }  # fmt: skip
    if suffix not in readers:
        raise GraphError(
            f"{str(path)!r}: graphs are read from {', '.join(readers)}; others as Graph(edge_index, weight)."
        )
    try:
        return readers[suffix](file, nodes).check()
    except GraphError as error:
        raise error if str(path) in str(error) else GraphError(f"{str(path)!r}: {error}") from error
    except MissingExtraError:
        raise
    except Exception as error:
        said = f"{error}" if isinstance(error, UNREADABLE) else f"{type(error).__name__}: {error}"
        raise GraphError(f"{str(path)!r} cannot be read: {said or type(error).__name__}") from error


def lists_edges(table: Any) -> bool:
    """Whether a file, by its first line, or a frame is a list of edges, which may be written in labels."""
    if not isinstance(table, (str, os.PathLike)):
        return min(_ends(table.columns if hasattr(table, "columns") else ())) >= 0
    file = Path(table)
    try:
        return file.is_file() and _suffix(file) in TEXTS and min(_ends(*_table(file, rows=1)[:1])) >= 0
    except (GraphError, *UNREADABLE):
        return False  # which reading it will tell


def _suffix(file: Path) -> str:
    return (file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix).lower()


def _from_array(array: np.ndarray, nodes: Any) -> Edges:
    """Take a square matrix or an edge index; a 2 × 2 array is a matrix."""
    if array.ndim == 2 and array.shape[0] == 2 != array.shape[1]:
        return Edges(array, nodes=nodes)
    if array.dtype.kind not in "fiub":
        raise GraphError(f"an adjacency matrix holds numbers, but this array is {array.dtype}.")
    return Edges.of_matrix(array, nodes=nodes)


def _npy(file: Path, nodes: Any) -> Edges:
    with open(file, "rb") as stream:
        return _from_array(read_npy(stream, file.stat().st_size), nodes)


def _npz(file: Path, nodes: Any) -> Edges:
    with open_npz_archive(file) as archive:
        names = archive.names
        if {"format", "shape", "data"} <= set(names):
            return Edges.of_matrix(_sparse(file, archive), nodes=nodes)
        labels = archive["nodes"] if "nodes" in names else nodes
        if "edge_index" in names:
            weight = archive["edge_weight"] if "edge_weight" in names else None
            count = archive["num_nodes"].item() if "num_nodes" in names else None
            if not isinstance(count, int | None):
                raise GraphError(f"num_nodes of {str(file)!r} is {count!r}; it is one integer.")
            return Edges(archive["edge_index"], weight, num_nodes=count, nodes=labels)
        shapes = {name: archive[name].shape for name in names}
        square = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == shape[1]]
        named = [name for name in ADJACENCIES if name in square] or square
        if len(named) != 1:
            raise GraphError(
                f"{str(file)!r} holds {shapes}; a graph is 'edge_index' (with 'edge_weight', 'num_nodes', "
                "'nodes'), a matrix that scipy.sparse.save_npz wrote, or exactly one square matrix."
            )
        return _from_array(archive[named[0]], labels)


def _sparse(file: Path, archive: Archive) -> Any:
    """Make the matrix that `scipy.sparse.save_npz` wrote; its indices are checked, which scipy omits."""
    try:
        from scipy import sparse
    except ImportError as error:
        raise MissingExtraError(f"{str(file)!r} is a scipy sparse matrix: pip install scipy") from error
    kind = archive["format"].item()
    kind = kind.decode("latin1") if isinstance(kind, bytes) else kind
    members = {"coo": ("row", "col"), "dia": ("offsets",)}.get(kind, ("indices", "indptr"))
    shape, data = archive["shape"], archive["data"]
    missing = [name for name in members if name not in archive.names]
    if (
        kind not in SPARSE
        or missing
        or shape.shape != (2,)
        or shape.dtype.kind not in "iu"
        or data.dtype.kind not in "fiub"
    ):
        raise GraphError(
            f"{str(file)!r} says it holds a sparse matrix of format {kind!r} and shape {shape}, of {data.dtype}, in "
            f"{archive.names}; a graph is one of numbers, as scipy.sparse.save_npz writes it: {', '.join(SPARSE)}."
        )
    parts = [archive[name] for name in members]
    if any(part.ndim != 1 or part.dtype.kind != "i" for part in parts) or not (
        members[-1] != "indptr" or _rises(parts[1], len(parts[0]))
    ):
        raise GraphError(
            f"{str(file)!r}: {' and '.join(members)} are no indices of a sparse matrix; save it again."
        )
    make = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "bsr": sparse.bsr_matrix}
    make |= {"coo": sparse.coo_matrix, "dia": sparse.dia_matrix}
    places = (tuple(parts),) if kind == "coo" else parts
    matrix = make[kind]((data, *places), shape=tuple(shape.tolist()))
    if members[-1] == "indptr":
        matrix.check_format(full_check=True)
    return matrix


def _rises(pointers: np.ndarray, end: int) -> bool:
    """Whether pointers rise from 0 to ``end``: scipy does not look where the last one is 0, and writes elsewhere."""
    rising = bool(pointers.size) and bool((pointers[1:] >= pointers[:-1]).all())
    return rising and pointers[0] == 0 and pointers[-1] == end


def _pickle(file: Path, nodes: Any) -> Edges:
    found = load_plain(file.read_bytes())
    if isinstance(found, np.ndarray):
        return _from_array(found, nodes)
    matches = (
        isinstance(found, Sequence)
        and len(found) == 3
        and isinstance(found[0], (list, tuple, np.ndarray))
        and isinstance(found[1], Mapping)
        and isinstance(found[2], np.ndarray)
    )
    if not matches:
        raise GraphError(
            f"{str(file)!r} holds a {type(found).__name__}; a matrix, or DCRNN's [ids, id_to_index, matrix], "
            "is a graph."
        )
    ids, numbers, matrix = found
    if any(not isinstance(label, (str, bytes, int, float, np.generic)) for label in ids):
        raise GraphError(f"{str(file)!r}: some of its ids are neither text nor numbers.")
    if matrix.ndim != 2:
        raise GraphError(f"{str(file)!r}: the matrix has shape {matrix.shape}.")
    labels = as_labels(list(ids), size=len(matrix), what="nodes", error=GraphError)
    wrong = [label for place, label in enumerate(ids) if numbers.get(label, place) != place]
    if wrong:
        raise GraphError(f"{str(file)!r}: ids and their numbers disagree, first for {wrong[0]!r}.")
    return Edges.of_matrix(matrix, nodes=labels)


def _text(file: Path, nodes: Any, ends: str | None, more: bool) -> Edges:
    """Read a matrix or a list of edges: a header that names both ends of an edge makes it a list."""
    table = _table(file)
    if not table:
        raise GraphError(f"{str(file)!r} is empty.")
    header, *rows = table
    return _matrix(table, nodes) if min(_ends(header)) < 0 else _list(header, rows, nodes, ends, more)


def table_edges(table: Any, *, nodes: Any = None, ends: str | None = None, more: bool = False) -> Edges:
    """Edges of a matrix, or of a frame: a matrix labelled on both sides, or a list of edges."""
    frame = table.to_pandas() if hasattr(table, "to_pandas") else table
    if not hasattr(frame, "columns"):
        return Edges.of_matrix(frame, nodes=nodes)
    if min(_ends(frame.columns)) < 0:
        return _labelled(frame.to_numpy(), np.asarray(frame.index), np.asarray(frame.columns), nodes)
    found = _list(frame.columns, frame.to_numpy(dtype=object).tolist(), nodes, ends, more)
    weight = _column(frame.columns, WEIGHTS)
    return found if weight < 0 else found._replace(edge_weight=frame.iloc[:, weight].to_numpy())


def _list(
    header: Iterable[Any], rows: Sequence[Sequence[Any]], nodes: Any, ends: str | None, more: bool
) -> Edges:
    """Take a list of edges, whose columns the header names."""
    source, target, weight = *_ends(header), _column(header, WEIGHTS)
    try:
        flat = [_whole(text_of(row[end])) for row in rows for end in (source, target)]
        weights = [float(row[weight]) for row in rows] if weight >= 0 else None
    except (IndexError, ValueError) as error:
        raise GraphError(f"an edge is short of a cell or its weight is no number: {error}") from error
    index, labels = _numbered(flat, nodes, ends, more)
    return Edges(index.reshape(-1, 2).T, weights, nodes=labels)


def _table(file: Path, rows: int | None = None) -> list[list[str]]:
    """Return cells by row, of the first rows or of all, without empty ones."""
    with _opened(file) as lines:
        first = lines.readline()
        delimiter = next((mark for mark in ",;\t" if mark in first), " ")
        lines.seek(0)
        reader = csv.reader(itertools.islice(lines, rows), delimiter=delimiter, skipinitialspace=True)
        return [[cell.strip() for cell in row] for row in reader if any(cell.strip() for cell in row)]


def _opened(file: Path) -> IO[str]:
    if file.suffix != ".gz":
        return open(file, encoding="utf-8-sig", newline="")
    with gzip.open(file) as packed:
        text = packed.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise GraphError(
            f"{str(file)!r} holds more than {LARGEST >> 20} MiB of text: unpack it first, with gunzip."
        )
    return io.StringIO(text.decode("utf-8-sig"), newline="")


def _ends(header: Iterable[Any] = ()) -> tuple[int, int]:
    """Columns that a header names as the ends of an edge; -1 where it does not."""
    return _column(header, SOURCES), _column(header, TARGETS)


def _column(header: Iterable[Any], names: Sequence[str]) -> int:
    """Column that has one of the names, the first of them that there is; -1 without."""
    found = [str(cell).lower() for cell in header]
    return next((found.index(name) for name in names if name in found), -1)


def _matrix(table: list[list[str]], nodes: Any) -> Edges:
    """Take a square table of numbers, perhaps with labels above it and to its left."""
    widths = {len(row) for row in table[1:]} or {len(table[0])}
    width = min(widths)
    if len(widths) > 1:
        raise GraphError(
            f"rows have between {width} and {max(widths)} cells; a matrix has the same number in each."
        )
    labels: Any = None
    rows: Any = None
    if len(table) in (width, width + 1) and len(table[0]) >= width - 1 and len(table) == width + 1:
        labels, table = table[0], table[1:]  # one line more than columns: a header
    elif len(table) == width and not _is_number(table[0][0]):
        labels, rows = table[0][-(width - 1) :], [row[0] for row in table[1:]]  # above and to the left
        table = [row[1:] for row in table[1:]]
    if not table or any(len(row) != len(table) for row in table):
        raise GraphError(
            f"{len(table)} rows of {width} cells are neither a square matrix, with or without labels, nor a "
            f"list of edges with a header that names both ends ({SOURCES[0]},{TARGETS[0]},{WEIGHTS[0]})."
        )
    try:
        matrix = np.array(table, dtype=np.float32)
    except ValueError as error:
        raise GraphError(f"the matrix holds something that is no number: {error}") from error
    return _labelled(matrix, rows, labels, nodes)


def _labelled(matrix: np.ndarray, rows: Any, columns: Any, nodes: Any) -> Edges:
    """Take a matrix whose rows are labelled in another order than its columns, or one side only, or none."""
    if matrix.dtype.kind not in "fiub":
        raise GraphError(f"an adjacency matrix holds numbers, but this one is {matrix.dtype}.")
    picked = order(rows, columns, "the rows of the matrix", "its columns", GraphError)
    sides = (columns, rows if picked is None else None)
    labels = next((side for side in sides if side is not None and not counts(side)), nodes)
    return Edges.of_matrix(matrix if picked is None else matrix[picked], nodes=labels)


def _numbered(
    flat: list[int | str], nodes: Any, ends: str | None, more: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers of the ends of edges, and labels of the nodes: written in labels or in numbers, if that can be told."""
    numbers = np.array(flat, np.int64) if all(isinstance(end, int) for end in flat) else None
    if ends == "numbers":
        if numbers is None:
            names = sorted({str(end) for end in flat if not isinstance(end, int)})
            raise GraphError(
                f"edges are written in labels ({listed(names)}), so the order of the nodes has to be said: pass "
                "nodes=, a label for each column of the array."
            )
        return numbers, None if nodes is None else as_labels(nodes, size=None, what="nodes", error=GraphError)
    if nodes is None:
        if ends is None and numbers is not None:
            _check_dense(numbers)
            return numbers, None
        nodes = sorted(set(texts(flat)))
    labels = as_labels(nodes, size=None, what="nodes", error=GraphError)
    found, missing = find(labels, flat)
    if (
        ends is None
        and numbers is not None
        and numbers.size
        and numbers.min() >= 0
        and numbers.max() < len(labels)
    ):
        if missing:  # no labels after all: every end is a number in range
            return numbers, labels
        if (found != numbers).any():
            raise GraphError(
                f"edges could be written in labels or in numbers: all ends are among the {len(labels)} labels "
                f"({listed(labels.tolist(), 3)}) and among the numbers 0 … {len(labels) - 1} too. Say which: "
                "graph=windowloader.Graph.load(path, nodes=labels, ends='labels'), or ends='numbers'."
            )
    if missing and more and (found >= 0).any() and (numbers is None or _scattered(numbers)):
        every = [*texts(labels), *dict.fromkeys(missing)]
        labels = as_labels(every, size=None, what="nodes", error=GraphError)
        found, missing = find(labels, flat)
    if missing:
        raise GraphError(
            f"edges join nodes that are not among the {len(labels)} labels: {listed(set(missing))}."
        )
    return found, labels


def _check_dense(numbers: np.ndarray) -> None:
    """Refuse numbers that few nodes have: those are labels, such as sensor ids."""
    if _scattered(numbers):
        raise GraphError(
            f"edges join {len(np.unique(numbers))} nodes, whose numbers go up to {int(numbers.max())}: these look like "
            "labels (sensor ids). Pass nodes=, the labels in the order of the array's columns; or, if they are numbers "
            "and the other nodes have no edges, windowloader.Graph.load(path, ends='numbers')."
        )


def _scattered(numbers: np.ndarray) -> bool:
    return bool(numbers.size) and int(numbers.max()) >= SCATTERED * len(np.unique(numbers))


def _whole(cell: str) -> int | str:
    """Return a node's number, or its label as it stands: with zeros in front it is no number."""
    if re.match(r"-?0\d", cell):
        return cell
    try:
        return int(cell) if "." not in cell else int(float(cell)) if float(cell).is_integer() else cell
    except ValueError:
        return cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
