"""Graphs as files have them: npz, npy, CSV and text, and DCRNN's pickle.

In: a path. Out: `Edges`. Never unpickles anything but plain data, and never reads a list of edges as a
matrix.
"""

from __future__ import annotations

import csv
import gzip
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from windowloader.assembly.labels import as_labels, listed, positions, texts
from windowloader.errors import GraphError, MissingExtraError, SourceNotFoundError
from windowloader.sources.handles import nearby

from .edges import Edges

__all__ = ["read_graph"]

SOURCES = ("from", "source", "src", "start", "i", "from_node", "sender", "u")
TARGETS = ("to", "target", "dst", "end", "j", "to_node", "receiver", "v")
WEIGHTS = ("weight", "w", "cost", "distance", "value", "edge_weight", "weights")
ADJACENCIES = ("adj", "adjacency", "adj_mx", "adjacency_matrix", "weights", "W", "A")


def read_graph(path: str | os.PathLike[str], *, nodes: Any = None) -> Edges:
    """Read the edges of a graph; `Graph.load` says which files."""
    file = Path(path)
    if not file.is_file():
        raise SourceNotFoundError(
            f"no graph at {str(path)!r}: there is no such file (looked for {os.path.abspath(path)}). {nearby(path)}"
        )
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    readers = {".npz": _npz, ".npy": _npy, ".csv": _text, ".txt": _text, ".pkl": _pickle, ".pickle": _pickle}
    if suffix.lower() not in readers:
        raise GraphError(
            f"{str(path)!r}: graphs are read from {', '.join(readers)}; others as Graph(edge_index, weight)."
        )
    try:
        return readers[suffix.lower()](file, nodes).check()
    except GraphError as error:
        raise error if str(path) in str(error) else GraphError(f"{str(path)!r}: {error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise GraphError(f"{str(path)!r} cannot be read: {error}") from error


def _from_array(array: np.ndarray, nodes: Any) -> Edges:
    """Take a square matrix or an edge index; a 2 × 2 array is a matrix."""
    if array.ndim == 2 and array.shape[0] == 2 != array.shape[1]:
        return Edges(array, nodes=nodes)
    if array.dtype.kind not in "fiub":
        raise GraphError(f"an adjacency matrix holds numbers, but this array is {array.dtype}.")
    return Edges.of_matrix(array, nodes=nodes)


def _npy(file: Path, nodes: Any) -> Edges:
    return _from_array(np.load(file, allow_pickle=False), nodes)


def _npz(file: Path, nodes: Any) -> Edges:
    with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
        names = archive.files
        if {"format", "shape", "data"} <= set(names):
            return Edges.of_matrix(_sparse(file), nodes=nodes)
        labels = archive["nodes"] if "nodes" in names else nodes
        if "edge_index" in names:
            weight = archive["edge_weight"] if "edge_weight" in names else None
            count = int(archive["num_nodes"]) if "num_nodes" in names else None
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


def _sparse(file: Path) -> Any:
    try:
        from scipy.sparse import load_npz
    except ImportError as error:
        raise MissingExtraError(f"{str(file)!r} is a scipy sparse matrix: pip install scipy") from error
    return load_npz(file)


def _pickle(file: Path, nodes: Any) -> Edges:
    from .unpickle import load_plain

    found = load_plain(file)
    if isinstance(found, np.ndarray):
        return _from_array(found, nodes)
    matches = (
        isinstance(found, Sequence)
        and len(found) == 3
        and isinstance(found[1], Mapping)
        and isinstance(found[2], np.ndarray)
    )
    if not matches:
        raise GraphError(
            f"{str(file)!r} holds a {type(found).__name__}; a matrix, or DCRNN's [ids, id_to_index, matrix], "
            "is a graph."
        )
    ids, numbers, matrix = found
    labels = as_labels(list(ids), size=len(matrix), what="nodes", error=GraphError)
    wrong = [label for place, label in enumerate(ids) if numbers.get(label, place) != place]
    if wrong:
        raise GraphError(f"{str(file)!r}: ids and their numbers disagree, first for {wrong[0]!r}.")
    return Edges.of_matrix(matrix, nodes=labels)


def _text(file: Path, nodes: Any) -> Edges:
    """Read a matrix or a list of edges: a header that names both ends of an edge makes it a list."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
        delimiter = next((mark for mark in ",;\t" if mark in first), " ")
        lines.seek(0)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        table = [[cell.strip() for cell in row] for row in reader if any(cell.strip() for cell in row)]
    if not table:
        raise GraphError(f"{str(file)!r} is empty.")
    header = [cell.lower() for cell in table[0]]
    ends = [
        next((header.index(name) for name in names if name in header), -1) for names in (SOURCES, TARGETS)
    ]
    if min(ends) >= 0:
        weight = next((header.index(name) for name in WEIGHTS if name in header), -1)
        return _edge_list(table[1:], ends[0], ends[1], weight, nodes)
    return _matrix(table, nodes)


def _matrix(table: list[list[str]], nodes: Any) -> Edges:
    """Take a square table of numbers, perhaps with labels above it and to its left."""
    widths = {len(row) for row in table[1:]} or {len(table[0])}
    width = min(widths)
    if len(widths) > 1:
        raise GraphError(
            f"rows have between {width} and {max(widths)} cells; a matrix has the same number in each."
        )
    labels: Any = None
    if len(table) in (width, width + 1) and len(table[0]) >= width - 1 and len(table) == width + 1:
        labels, table = table[0], table[1:]  # one line more than columns: a header
    elif len(table) == width and not _is_number(table[0][0]):
        labels, table = (
            table[0][-(width - 1) :],
            [row[1:] for row in table[1:]],
        )  # labels above and to the left
    if not table or any(len(row) != len(table) for row in table):
        raise GraphError(
            f"{len(table)} rows of {width} cells are neither a square matrix, with or without labels, nor a "
            f"list of edges with a header that names both ends ({SOURCES[0]},{TARGETS[0]},{WEIGHTS[0]})."
        )
    try:
        matrix = np.array(table, dtype=np.float32)
    except ValueError as error:
        raise GraphError(f"the matrix holds something that is no number: {error}") from error
    if labels is not None and labels == [str(number) for number in range(len(table))]:
        labels = None  # pandas numbers columns that have no names
    return Edges.of_matrix(matrix, nodes=nodes if labels is None else labels)


def _edge_list(rows: list[list[str]], source: int, target: int, weight: int, nodes: Any) -> Edges:
    """Edges one a line, written in node numbers or in labels."""
    try:
        ends = [[row[source], row[target]] for row in rows]
        weights = [float(row[weight]) for row in rows] if weight >= 0 else None
    except (IndexError, ValueError) as error:
        raise GraphError(f"an edge is short of a cell or its weight is no number: {error}") from error
    flat = [_whole(cell) for pair in ends for cell in pair]
    numbers = np.array(flat, np.int64) if all(isinstance(cell, int) for cell in flat) else None
    if nodes is None and numbers is not None:
        return Edges(numbers.reshape(-1, 2).T, weights)
    labels = as_labels(
        sorted(set(texts(flat))) if nodes is None else nodes, size=None, what="nodes", error=GraphError
    )
    found, missing = positions(labels, flat)
    if (
        missing
        and numbers is not None
        and numbers.size
        and numbers.min() >= 0
        and numbers.max() < len(labels)
    ):
        found, missing = numbers, []  # no labels after all: every end is a number in range
    if missing:
        raise GraphError(
            f"edges join nodes that are not among the {len(labels)} labels: {listed(set(missing))}."
        )
    return Edges(found.reshape(-1, 2).T, weights, nodes=labels)


def _whole(cell: str) -> int | str:
    """Return a node's number, or its label as it stands."""
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
