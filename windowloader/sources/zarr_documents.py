"""Metadata of a Zarr store, read without more requests than need be: consolidated, by name, or folder by folder.

In: a store of zarr-python. Out: its documents by key. Never reads chunks, and never lists what lies below an array.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from windowloader.errors import SourceFormatError

from .description import split_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Reader", "array_document", "array_paths", "folders_of", "grouped", "holds", "parsed"]

DEEPEST = 16  # groups within one another that are listed


class Reader:
    """Reads metadata of a store, in the event loop of zarr-python."""

    def __init__(self, store: Any, prototype: Any, root: str) -> None:
        self.store, self.prototype, self.root = store, prototype, root

    async def get(self, *keys: str) -> dict[str, bytes]:
        """Return the documents there are of some keys, asked for at once."""
        found = await asyncio.gather(*(self.store.get(f"{self.root}{key}", self.prototype) for key in keys))
        return {key: value.to_bytes() for key, value in zip(keys, found, strict=True) if value is not None}

    async def head(self) -> tuple[dict[str, bytes], int, bool]:
        """Return the documents that the root has, the format, and whether these are all there are."""
        if head := (await self.get("zarr.json")).get("zarr.json"):
            node = parsed(head)
            inner = (node.get("consolidated_metadata") or {}).get("metadata")
            found = {"zarr.json": head}
            for path, one in (inner or {}).items():
                found[f"{path}/zarr.json"] = json.dumps(one).encode()
            return found, 3, inner is not None or node.get("node_type") == "array"
        if whole := (await self.get(".zmetadata")).get(".zmetadata"):
            inner = parsed(whole)["metadata"]
            return {key: json.dumps(one).encode() for key, one in inner.items()}, 2, True
        found = await self.get(".zarray", ".zattrs", ".zgroup")
        return found, 2, ".zarray" in found

    async def nodes(self, paths: Iterable[str], form: int) -> dict[str, bytes]:
        """Return the documents of some nodes."""
        names = ("zarr.json",) if form == 3 else (".zarray", ".zattrs")
        return await self.get(*(f"{path}/{name}" for path in dict.fromkeys(paths) for name in names))

    async def named(self, path: str, form: int, known: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the documents of an array and of what its dimensions and attributes name, here or above."""
        found = known if holds(known, path) else await self.nodes([path], form)
        if not holds(found, path):
            return {}
        document = (
            parsed(found[f"{path}/zarr.json"]) if form == 3 else parsed(found.get(f"{path}/.zattrs", b"{}"))
        )
        attributes = document.get("attributes") or {} if form == 3 else document
        dims = (document.get("dimension_names") if form == 3 else attributes.get("_ARRAY_DIMENSIONS")) or []
        said = str(attributes.get("coordinates", "")).split()
        here = split_path(path)[0]
        folders = [f"{here}/" if here else "", *reversed(folders_of(here)[:-1]), ""]
        beside = [f"{folder}{dim}" for folder in folders for dim in dims if isinstance(dim, str) and dim]
        beside += [f"{folders[0]}{name}" for name in said]
        beside = [one for one in beside if not holds(known, one) and one != path]
        return {**found, **await self.nodes(beside, form)}

    async def below(self, folder: str, form: int) -> dict[str, bytes]:
        """Return the documents of all nodes below a folder: listed folder by folder, never into arrays."""
        if folder.count("/") > DEEPEST:  # links and damaged keys lead round and round
            raise SourceFormatError(
                f"folders below {folder.partition('/')[0]!r} are nested more than {DEEPEST} deep. Name the arrays: "
                "variables=['…'], or have the metadata consolidated (zarr.consolidate_metadata)."
            )
        listed = self.store.list_dir(f"{self.root}{folder}".rstrip("/"))
        names = [name.rstrip("/") async for name in listed]
        names = [name for name in names if name and not name.startswith(".") and name != "zarr.json"]
        paths = [f"{folder}{name}" for name in names]
        found = await self.nodes(paths, form)
        # A folder without a document is a group of Zarr 2, or none of ours.
        inner = [
            path for path in paths if not holds(found, path) and (form == 2 or f"{path}/zarr.json" in found)
        ]
        for more in await asyncio.gather(*(self.below(f"{path}/", form) for path in inner)):
            found |= more
        return found


def parsed(document: bytes) -> dict[str, Any]:
    """Return a document as JSON has it."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise SourceFormatError(
            f"metadata are not JSON ({error}); was the store written to its end?"
        ) from error
    return found if isinstance(found, dict) else {}


def holds(documents: Mapping[str, bytes], path: str) -> bool:
    """Whether there is an array of a path."""
    start = f"{path}/" if path else ""
    if f"{start}.zarray" in documents:
        return True
    document = documents.get(f"{start}zarr.json")
    return document is not None and parsed(document).get("node_type") == "array"


def array_paths(documents: Mapping[str, bytes]) -> Iterator[str]:
    """Paths of the arrays."""
    for key in documents:
        path, _, name = key.rpartition("/")
        if name in ("zarr.json", ".zarray") and holds(documents, path):
            yield path


def folders_of(path: str) -> list[str]:
    """Return the folders that lead to a path, the outermost first, each with a slash.

    Examples
    --------
    >>> folders_of("a/b/speed")
    ['a/', 'a/b/', 'a/b/speed/']
    """
    parts = path.split("/") if path else []
    return ["/".join(parts[: count + 1]) + "/" for count in range(len(parts))]


def array_document(documents: Mapping[str, bytes], path: str, form: int) -> dict[str, Any]:
    """Return what there is about an array in one document, as zarr-python takes it.

    TensorStore reads bfloat16 as float32; for zarr-python it is of a dtype of the same size.
    """
    start = f"{path}/" if path else ""
    if form == 2:
        return {
            **parsed(documents[f"{start}.zarray"]),
            "attributes": parsed(documents.get(f"{start}.zattrs", b"{}")),
        }
    found = parsed(documents[f"{start}zarr.json"])
    return (
        {**found, "data_type": "uint16", "fill_value": 0} if found.get("data_type") == "bfloat16" else found
    )


def grouped(documents: Mapping[str, bytes], paths: Iterable[str], form: int, root: str) -> dict[str, bytes]:
    """Return the documents of some arrays and of the groups above them, by key below a root."""
    name = "zarr.json" if form == 3 else ".zgroup"
    group = {"zarr_format": form, **({"node_type": "group"} if form == 3 else {})}
    shown: dict[str, bytes] = {}
    for path in paths:
        shown |= {
            f"{root}{above}{name}": json.dumps(group).encode() for above in ("", *folders_of(path)[:-1])
        }
        whole = array_document(documents, path, form)
        parts = {"zarr.json": whole} if form == 3 else {".zattrs": whole.pop("attributes"), ".zarray": whole}
        shown |= {f"{root}{path}/{key}": json.dumps(part).encode() for key, part in parts.items()}
    return shown
