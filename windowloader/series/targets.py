"""What people hand in, as arrays by name: one array, a store and names in it, a mapping of arrays, a list of any.

In: a target of `windowloader.open`. Out: `Opener`, which opens sources, and the variables that were chosen. Never reads
values.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windowloader.errors import SeriesError
from windowloader.sources import Source

from .labels import listed

if TYPE_CHECKING:
    from windowloader.sources.disk_cache import DiskCache

__all__ = ["UNNAMED", "Opener", "choose"]

UNNAMED = "value"  # an array that nobody named
STORES = ("xarray", "h5py", "zarr", "pandas")


@dataclass(frozen=True, slots=True)
class Opener:
    """How sources are opened: what `windowloader.open` was told about storage.

    Parameters
    ----------
    storage_options : mapping
        For the file system or bucket.
    options : mapping
        What a family of sources takes: ``shape=``, ``dtype=``, ``offset=``, ``member=`` …
    cache : DiskCache, optional
        Where rows of what is opened by path or URL are kept on this node.
    """

    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    cache: DiskCache | None = None

    def __call__(self, target: Any, *, variable: str | None = None, axes: str | None = None) -> Source:
        """Open one source."""
        from windowloader.sources.registry import open_source

        source = open_source(
            target, variable=variable, axes=axes, storage_options=self.storage_options, **self.options
        )
        if self.cache is None:
            return source
        if _is_stored(target):
            from windowloader.sources.disk_cache_source import cached

            return cached(source, self.cache, options=repr(sorted(self.options.items())))
        if "t" in source.axes and source.tier == "streamed":
            warnings.warn(
                f"cache_dir={self.cache.path!r} keeps what is opened by path or URL; {source.name!r} was given "
                f"as an open {type(target).__name__}, and is streamed in every epoch. Give its path or URL.",
                UserWarning,
                stacklevel=2,
            )
        return source

    def variables(self, target: Any, names: list[str] | None = None) -> tuple[str, ...]:
        """Names of the arrays a store holds; () where the target is one array.

        With ``names``, those that are asked for: opening them says which of them a store does not have, and a store
        that cannot be listed is opened by them.
        """
        from windowloader.sources.registry import list_variables

        if not self.options.keys().isdisjoint(("member", "shape")):
            return ()
        first = target[0] if isinstance(target, (list, tuple)) and target else target
        return list_variables(first, storage_options=self.storage_options, names=names or ())


def choose(target: Any, names: list[str] | None, opener: Opener) -> dict[str, tuple[Any, str | None]]:
    """Choose variables, by name, each with its target and its name in the store.

    Parameters
    ----------
    target : object
        As `windowloader.open` takes it.
    names : list of str, optional
        Those that are wanted, in this order; or the name of a single array.
    opener : Opener
        Lists stores.

    Raises
    ------
    SeriesError
        Where a name is not there, or none was given and there are several.
    """
    if isinstance(target, (list, tuple)) and target and all(_is_mapping(item) for item in target):
        for place, item in enumerate(target):
            if set(item) != set(target[0]):
                raise SeriesError(
                    f"item {place} of the list has the variables {listed(item)}, the first has {listed(target[0])}; "
                    "what is joined along time holds the same variables throughout."
                )
        target = {name: [item[name] for item in target] for name in target[0]}
    by_path = isinstance(target, (str, os.PathLike))
    called = repr(str(target)) if by_path else f"this {type(target).__name__}"
    found: dict[str, tuple[Any, str | None]] = {}
    if _is_mapping(target):
        found = {str(name): (part, None) for name, part in target.items()}
    elif stored := opener.variables(target, names):
        if names is None and len(stored) > 1:
            raise SeriesError(
                f"{called} holds {len(stored)} variables: {listed(stored, 20)}. Say which, e.g. "
                f"variables=[{stored[0]!r}]."
            )
        found = {name: (target, name) for name in stored}
    elif names is None or (len(names) == 1 and not by_path):
        own = UNNAMED if isinstance(target, (Source, os.PathLike)) else getattr(target, "name", UNNAMED)
        found = {names[0] if names else own if isinstance(own, str) else UNNAMED: (target, None)}
    asked = list(found) if names is None else names
    unknown = [name for name in asked if name not in found]
    if unknown or len(set(asked)) < len(asked) or not asked:
        single = "is a single array: name its features with features=[…], or pass a mapping of arrays"
        raise SeriesError(
            f"variables={asked} of {called}: name one or more, each once; unknown: {listed(unknown) or 'none'}. It "
            f"{f'has {listed(found, 20)}' if found else single}."
        )
    return {name: found[name] for name in asked}


def _is_stored(target: Any) -> bool:
    """Whether a target is named by path or URL: of what is in hand nobody can tell later whether it is the same."""
    parts = target if isinstance(target, (list, tuple)) else [target]
    return bool(parts) and all(isinstance(part, (str, os.PathLike)) for part in parts)


def _is_mapping(target: Any) -> bool:
    """Whether a target is a mapping of targets; groups and datasets of libraries are stores instead."""
    return isinstance(target, Mapping) and type(target).__module__.partition(".")[0] not in STORES
