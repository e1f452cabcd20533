"""Edge lists from arrays, matrices, frames and files, checked and renumbered.

In: edges, adjacency matrices or files of either, as people have them. Out: `Edges`, and int64 arrays of shape (2, edge)
with floating weights. Never reorders an edge list, never unpickles anything but plain data, and never reads a list of
edges as a matrix.
"""

from __future__ import annotations

import csv
import gzip
import io
import operator
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from windowloader.errors import GraphError, SourceNotFoundError
from windowloader.util.labels import NUMBER, as_labels, counts, find, listed, locate, order, text_of, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from windowloader.sources.numpy_files import Archive

__all__ = [
    "Edges",
    "Naming",
    "check_edges",
    "keep_edges",
    "order_of",
    "read_edges",
    "renumbering",
    "table_edges",
]

SOURCES = ("from", "source", "src", "start", "i", "from_node", "sender", "u")
TARGETS = ("to", "target", "dst", "end", "j", "to_node", "receiver", "v")
WEIGHTS = ("weight", "w", "cost", "distance", "value", "edge_weight", "weights")
ADJACENCIES = ("adj", "adjacency", "adj_mx", "adjacency_matrix", "weights", "W", "A")
LARGEST = 32 << 20  # bytes of text in a compressed file; parsed, it takes about twenty times as much memory
SCATTERED = 10  # node numbers that go up to this many times the number of nodes are labels
WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0*)?")  # leading zeros make a label


class Edges(NamedTuple):
    """A graph before its edges are checked."""

    edge_index: Any
    edge_weight: Any = None
    num_nodes: int | None = None
    nodes: Any = None

    @classmethod
    def of_matrix(cls, matrix: Any, *, nodes: Any = None) -> Edges:
        """Edges of an adjacency matrix, dense or scipy's, row by row; `GraphError` where it is not square."""
        scipy = sys.modules.get("scipy.sparse")
        if scipy is not None and scipy.issparse(matrix):
            sparse = matrix.tocoo()
            return cls.of_entries(sparse.row, sparse.col, sparse.data, sparse.shape, nodes)
        dense = np.asarray(matrix)
        if dense.dtype.kind not in "fiub":
            raise GraphError(f"an adjacency matrix holds numbers, but this one is {dense.dtype}.")
        size, index = _side(dense.shape), np.nonzero(dense)
        weight = dense[index].tolist() if isinstance(matrix, (list, tuple)) else dense[index]
        return cls(np.stack(index), weight, size, nodes)

    @classmethod
    def of_entries(cls, rows: Any, columns: Any, values: Any, shape: Any, nodes: Any) -> Edges:
        """Edges of a sparse matrix: repeated entries are added up, entries of 0 are left out."""
        sorted_ = np.lexsort((columns, rows))
        index, values = np.stack([rows, columns]).astype(np.int64)[:, sorted_], np.asarray(values)[sorted_]
        first = np.flatnonzero(np.diff(index, axis=1, prepend=-1).any(axis=0))
        values = np.add.reduceat(values, first) if len(first) else values
        kept = values != 0
        return cls(index[:, first][:, kept], values[kept], _side(shape), nodes)

    def fields(self) -> dict[str, Any]:
        """Return the checked fields of a `Graph` or `DynamicGraph`; ``sized``: whether the node count is known."""
        nodes = None if self.nodes is None else _labels(self.nodes, self.num_nodes)
        known = self.num_nodes if nodes is None else len(nodes)
        index, weight, count = check_edges(self.edge_index, self.edge_weight, known)
        return {
            "edge_index": index,
            "edge_weight": weight,
            "num_nodes": count,
            "nodes": nodes,
            "sized": known is not None,
        }


def _side(shape: Sequence[int]) -> int:
    """Size of a square matrix."""
    if len(shape) != 2 or shape[0] != shape[1]:
        hint = " An edge index is given as Graph(edge_index, edge_weight)." if shape[:1] == (2,) else ""
        raise GraphError(f"an adjacency matrix is square, but this has shape {tuple(shape)}.{hint}")
    return int(shape[0])


def _labels(nodes: Any, size: int | None = None) -> np.ndarray:
    return as_labels(nodes, size=size, what="nodes", error=GraphError)


def check_edges(
    edge_index: Any, edge_weight: Any, num_nodes: int | None
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Return the edges as int64, the weights as floats (None without) and the number of nodes.

    Floats of arrays keep their precision, all other weights become float32.

    Raises
    ------
    GraphError
        For a wrong shape, dtype or node number, and for weights that are not finite.
    """
    index = np.asarray(edge_index)
    if index.size == 0:
        index = np.empty((2, 0), np.int64)
    if index.ndim != 2 or len(index) != 2 or index.dtype.kind not in "iu":
        hint = " Pass edge_index.T." if index.ndim == 2 and index.shape[1] == 2 else ""
        raise GraphError(
            f"edge_index has shape {index.shape} and dtype {index.dtype}; integers of shape (2, edges) are needed, "
            f"sources above targets.{hint}"
        )
    index = np.ascontiguousarray(index, np.int64)
    count = int(index.max(initial=-1)) + 1 if num_nodes is None else int(num_nodes)
    wrong = np.flatnonzero(((index < 0) | (index >= count)).any(axis=0))
    if wrong.size:
        source, target = index[:, wrong[0]]
        raise GraphError(
            f"edge_index out of range: edge {wrong[0]} joins {source} and {target}, and the nodes are numbered "
            f"0 … {count - 1}. Are these labels (sensor ids) or counted from 1?"
        )
    if edge_weight is None:
        return index, None, count
    weight = np.asarray(edge_weight)
    if weight.shape != index.shape[1:] or weight.dtype.kind not in "fiub":
        raise GraphError(
            f"edge_weight has shape {weight.shape} and dtype {weight.dtype}; weights are numbers, one for each of the "
            f"{index.shape[1]} edges."
        )
    exact = weight.dtype.kind == "f" and not isinstance(edge_weight, (list, tuple))
    with np.errstate(over="ignore"):
        weight = np.ascontiguousarray(weight, weight.dtype if exact else np.float32)
    wrong = np.flatnonzero(~np.isfinite(weight))
    if wrong.size:
        raise GraphError(f"edge_weight of edge {wrong[0]} is {weight[wrong[0]]}; leave such edges out.")
    return index, weight, count


def order_of(nodes: np.ndarray | None, wanted: Any) -> np.ndarray:
    """Return the positions of the wanted labels in ``nodes``; `GraphError` where one is missing."""
    if nodes is None:
        raise GraphError("the graph has no node labels. Give them: Graph(edge_index, weight, nodes=ids).")
    return locate(nodes, _labels(wanted), "the graph", "the array", GraphError)


def renumbering(chosen: np.ndarray, num_nodes: int) -> np.ndarray:
    """Return the new number of each node: 0, 1, … for the ``chosen`` ones, -1 for the others."""
    index = np.asarray(chosen)
    if index.dtype == np.bool_:
        index = np.flatnonzero(index) if index.shape == (num_nodes,) else np.full(1, -1)
    if index.size and not (int(index.min()) >= 0 and int(index.max()) < num_nodes):
        raise GraphError(f"nodes {chosen!r} are not all among the graph's nodes 0 … {num_nodes - 1}.")
    new = np.full(num_nodes, -1, np.int64)
    new[index] = np.arange(len(index))
    if np.count_nonzero(new >= 0) < len(index):
        raise GraphError("a node was chosen twice; choose each node once.")
    return new


def keep_edges(
    edge_index: np.ndarray, edge_weight: np.ndarray | None, new: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Edges between the nodes that stay, in their new numbers, and a mask of which edges those are."""
    ends = new[edge_index]
    kept = (ends >= 0).all(axis=0)
    return ends[:, kept], None if edge_weight is None else edge_weight[kept], kept


# -- tables ------------------------------------------------------------------------------------------------------------


class Naming(NamedTuple):
    """How nodes are named: labels, and what the ends of edge lists are (``"labels"``, ``"numbers"``; None: what fits).

    ``of_series``: the labels are those of a series. An unlabelled matrix is not given them, and edge lists may join
    other nodes beside them.
    """

    nodes: Any = None
    ends: str | None = None
    of_series: bool = False

    @property
    def of_matrix(self) -> Any:
        """Labels of a matrix that has none."""
        return None if self.of_series else self.nodes


def table_edges(table: Any, naming: Naming) -> Edges:
    """Edges of a matrix, or of a frame: a matrix labelled on both sides, or a list of edges."""
    from windowloader.sources.table_columns import as_frame

    xarray = sys.modules.get("xarray")
    labelled = xarray is not None and isinstance(table, xarray.DataArray)
    frame = table.to_pandas() if labelled else as_frame(table)
    if frame is None or frame.ndim != 2:
        return Edges.of_matrix(table, nodes=naming.of_matrix)
    if min(_ends(frame.columns)) < 0:
        return _labelled(frame.to_numpy(), np.asarray(frame.index), np.asarray(frame.columns), naming)
    found = _list(frame.columns, frame.to_numpy(dtype=object).tolist(), naming)
    weight = _column(frame.columns, WEIGHTS)
    return found if weight < 0 else found._replace(edge_weight=frame.iloc[:, weight].to_numpy())


def _ends(header: Iterable[Any]) -> tuple[int, int]:
    """Columns that a header names as the ends of an edge; -1 for none."""
    return _column(header, SOURCES), _column(header, TARGETS)


def _column(header: Iterable[Any], names: Sequence[str]) -> int:
    """Column that has the first of the names that is there; -1 for none."""
    found = [str(cell).lower() for cell in header]
    return next((found.index(name) for name in names if name in found), -1)


def _list(header: Iterable[Any], rows: Sequence[Sequence[Any]], naming: Naming) -> Edges:
    """Edges of a list whose columns the header names."""
    source, target, weight = *_ends(header), _column(header, WEIGHTS)
    try:
        ends = [text_of(row[end]) for row in rows for end in (source, target)]
        weights = [float(row[weight]) for row in rows] if weight >= 0 else None
    except (IndexError, ValueError) as error:
        raise GraphError(f"an edge is short of a cell or its weight is not a number: {error}") from error
    whole = [int(end.partition(".")[0]) if WHOLE.fullmatch(end) else end for end in ends]
    index, labels = _numbered(whole, naming)
    return Edges(index.reshape(-1, 2).T, weights, nodes=labels)


def _labelled(matrix: np.ndarray, rows: Any, columns: Any, naming: Naming) -> Edges:
    """Edges of a matrix whose rows and columns have labels, perhaps in different orders, or none."""
    picked = order(rows, columns, "the rows of the matrix", "its columns", GraphError)
    sides = (columns, rows if picked is None else None)
    labels = next((side for side in sides if side is not None and not counts(side)), naming.of_matrix)
    return Edges.of_matrix(matrix if picked is None else matrix[picked], nodes=labels)


def _numbered(ends: list[int | str], naming: Naming) -> tuple[np.ndarray, Any]:
    """Node numbers of the ends of edges, and labels of the nodes; an error where both readings are possible."""
    asked = "numbers" if naming.of_series and naming.nodes is None else naming.ends
    numbers = np.array(ends, np.int64) if all(isinstance(end, int) for end in ends) else None
    scattered = numbers is not None and numbers.max(initial=0) >= SCATTERED * max(len(np.unique(numbers)), 1)
    if asked == "numbers" or (asked is None and naming.nodes is None and numbers is not None):
        if numbers is None:
            names = sorted({str(end) for end in ends if isinstance(end, str)})
            raise GraphError(
                f"edges are written in labels ({listed(names)}): pass nodes=, a label for each column of the array."
            )
        if scattered and asked is None:
            raise GraphError(
                f"edges join {len(np.unique(numbers))} nodes, whose numbers go up to {int(numbers.max())}: these look "
                "like labels (sensor ids). Pass nodes=, the labels in the order of the array's columns; or "
                "Graph.load(path, ends='numbers') if they are numbers."
            )
        return numbers, naming.nodes
    labels = _labels(sorted(set(texts(ends))) if naming.nodes is None else naming.nodes)
    found, missing = find(labels, ends)
    in_range = numbers is not None and numbers.min(initial=0) >= 0 and numbers.max(initial=0) < len(labels)
    if asked is None and numbers is not None and in_range:
        if missing:  # some ends are not labels, and every end is a node number
            return numbers, labels
        if (found != numbers).any():
            raise GraphError(
                f"edges could be written in labels or in numbers: all ends are among the labels "
                f"{listed(labels.tolist(), 3)} and among the numbers 0 … {len(labels) - 1}. Say which: "
                "graph=windowloader.Graph.load(path, nodes=labels, ends='labels'), or ends='numbers'."
            )
    if missing and naming.of_series and (found >= 0).any() and (numbers is None or scattered):
        labels = _labels([*texts(labels), *dict.fromkeys(missing)])
        found, missing = find(labels, ends)
    if missing:
        raise GraphError(
            f"edges join nodes that are not among the {len(labels)} labels: {listed(set(missing))}."
        )
    return found, labels


# -- files -------------------------------------------------------------------------------------------------------------


def read_edges(path: str | os.PathLike[str], naming: Naming) -> Edges:
    """Read the edges of a graph; `Graph.load` lists the files."""
    from windowloader.sources.formats import foreign
    from windowloader.sources.handles import nearby

    if naming.ends not in (None, "labels", "numbers"):
        raise GraphError(f"ends={naming.ends!r}: a list of edges is written in 'labels' or in 'numbers'.")
    file = Path(path)
    if os.path.isdir(path):
        raise GraphError(f"{str(path)!r} is a folder; a graph is read from a file: {', '.join(READERS)}.")
    if not os.path.isfile(path):
        raise SourceNotFoundError(f"no graph at {str(path)!r}: there is no such file. {nearby(path)}")
    suffix = (file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix).lower()
    if advice := foreign(path):
        raise GraphError(f"{str(path)!r} is {advice}.")
    if suffix not in READERS:
        raise GraphError(f"{str(path)!r}: graphs are read from {', '.join(READERS)}.")
    try:
        found = READERS[suffix](file, naming)
        found.fields()  # checked here, so that an error names the file
    except Exception as error:
        problem = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise GraphError(problem if str(path) in problem else f"{str(path)!r}: {problem}") from error
    return found


def _from_array(array: np.ndarray, nodes: Any) -> Edges:
    """Edges of an edge index or a square matrix; a 2 × 2 array is a matrix."""
    edge_index = array.ndim == 2 and array.shape[0] == 2 != array.shape[1]
    return Edges(array, nodes=nodes) if edge_index else Edges.of_matrix(array, nodes=nodes)


def _read_npy(file: Path, naming: Naming) -> Edges:
    from windowloader.sources.numpy_files import read_npy

    with open(file, "rb") as stream:
        return _from_array(read_npy(stream, file.stat().st_size), naming.of_matrix)


def _read_npz(file: Path, naming: Naming) -> Edges:
    from windowloader.sources.numpy_files import open_npz_archive

    with open_npz_archive(file) as archive:
        names = archive.names
        if {"format", "shape", "data"} <= set(names):
            return _sparse(archive, naming.of_matrix)
        labels = archive["nodes"] if "nodes" in names else naming.of_matrix
        if "edge_index" in names:
            weight = archive["edge_weight"] if "edge_weight" in names else None
            count = operator.index(archive["num_nodes"].item()) if "num_nodes" in names else None
            return Edges(archive["edge_index"], weight, count, labels)
        shapes = {name: archive[name].shape for name in names}
        square = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == shape[1]]
        named = [name for name in ADJACENCIES if name in square] or square
        if len(named) != 1:
            raise GraphError(
                f"{str(file)!r} holds {shapes}; a graph is 'edge_index' (with 'edge_weight', 'num_nodes', 'nodes'), "
                "a matrix written by scipy.sparse.save_npz, or exactly one square matrix."
            )
        return _from_array(archive[named[0]], labels)


def _sparse(archive: Archive, nodes: Any) -> Edges:
    """Edges of a matrix written by `scipy.sparse.save_npz` in the format coo, csr or csc."""
    kind, shape, data = np.asarray(archive["format"]).astype(str).item(), archive["shape"], archive["data"]
    if kind not in ("coo", "csr", "csc") or data.dtype.kind not in "fiub":
        raise GraphError(f"a sparse matrix in the format {kind!r}, of {data.dtype}; save matrix.tocsr().")
    if kind == "coo":
        rows, columns = archive["row"], archive["col"]
    else:
        pointers, columns = archive["indptr"], archive["indices"]
        counts = np.diff(pointers)
        if pointers[0] != 0 or pointers[-1] != len(columns) or counts.min(initial=0) < 0:
            raise GraphError("indptr and indices are not of a sparse matrix; save it again.")
        rows = np.repeat(np.arange(len(counts)), counts)
        rows, columns = (rows, columns) if kind == "csr" else (columns, rows)
    return Edges.of_entries(rows, columns, data, tuple(shape.tolist()), nodes)


def _read_pickle(file: Path, _naming: Naming) -> Edges:
    from windowloader.sources.unpickle import load_plain

    match load_plain(file.read_bytes()):
        case np.ndarray() as matrix:
            return _from_array(matrix, _naming.of_matrix)
        case [ids, dict() as numbers, np.ndarray(ndim=2) as matrix]:
            if any(not isinstance(label, (str, bytes, int, float, np.generic)) for label in ids):
                raise GraphError("some of its ids are neither text nor numbers.")
            if wrong := [label for place, label in enumerate(ids) if numbers.get(label, place) != place]:
                raise GraphError(f"ids and their numbers disagree, first for {wrong[0]!r}.")
            return Edges.of_matrix(matrix, nodes=_labels(list(ids), len(matrix)))
        case found:
            raise GraphError(f"a {type(found).__name__}; not a matrix or DCRNN's [ids, id_to_index, matrix].")


def _read_text(file: Path, naming: Naming) -> Edges:
    """Read a matrix or a list of edges: a header that names both ends of an edge makes it a list."""
    packed = file.suffix == ".gz"
    with (gzip.open if packed else open)(file, "rt", encoding="utf-8-sig", newline="") as lines:
        text = lines.read(LARGEST + 1 if packed else -1)
    if packed and len(text) > LARGEST:
        raise GraphError(f"more than {LARGEST >> 20} MiB of text: unpack it first, with gunzip.")
    delimiter = next((mark for mark in ",;\t" if mark in text.partition("\n")[0]), " ")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    table = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if not table:
        raise GraphError("it is empty.")
    if min(_ends(table[0])) >= 0:
        return _list(table[0], table[1:], naming)
    width, labels, names = len(table[-1]), None, None
    if len(table) == width + 1:  # one line more than columns: a header
        labels, table = table[0], table[1:]
    elif len(table) == width and not NUMBER.fullmatch(table[0][0]):  # labels above and to the left
        labels, names = table[0][-(width - 1) :], [row[0] for row in table[1:]]
        table = [row[1:] for row in table[1:]]
    if not table or any(len(row) != len(table) for row in table):
        raise GraphError(
            f"{len(table)} rows of {width} cells are neither a square matrix nor a list of edges with a header such as "
            f"{SOURCES[0]},{TARGETS[0]},{WEIGHTS[0]}."
        )
    return _labelled(np.array(table, np.float32), names, labels, naming)


READERS: dict[str, Callable[[Path, Naming], Edges]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": _read_text,
    ".txt": _read_text,
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
}
