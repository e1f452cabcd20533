"""The keyword arguments of `WindowLoader`, listed and checked once: adapters take the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from windowloader.batch.roles import WindowReadOptions
from windowloader.errors import LoaderError
from windowloader.order.config import LoaderConfig
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from windowloader.batch.batch import Batch

__all__ = ["LoaderOptions", "check_windows", "sorted_options"]


class LoaderOptions(WindowReadOptions, total=False):
    """The keyword arguments of `WindowLoader`: how batches look, and those of `LoaderConfig`, with its defaults."""

    batch_size: int
    shuffle: bool
    seed: int
    transform: Callable[[Batch], Any] | None
    rank: int | None
    world_size: int | None
    lanes: int | None
    uneven: Literal["pad", "drop", "exact"]
    drop_last: bool
    global_batch_size: int | None
    steps_per_epoch: int | None
    epochs: int | None
    memory: str | int
    active_blocks: int | None
    reads_ahead: int | None
    prefetch_batches: int | None
    threads: int | None


def sorted_options(
    loader: str, given: dict[str, Any]
) -> tuple[dict[str, Any], Callable[[Batch], Any] | None, LoaderConfig]:
    """Divide options by who needs them: how batches look, the transform, and the rest, checked.

    Parameters
    ----------
    loader : str
        Name of the class that was called, for errors.
    given : dict

    Returns
    -------
    dict, callable or None, LoaderConfig

    Raises
    ------
    TypeError
        For an unknown option.
    LoaderError
        For a transform that is not callable, and as `LoaderConfig` does.
    """
    if unknown := sorted(set(given) - set(LoaderOptions.__annotations__)):
        known = ", ".join(LoaderOptions.__annotations__)
        raise TypeError(f"{loader} got unexpected options {unknown}. It takes {known}.")
    delivery = {name: given.pop(name) for name in WindowReadOptions.__annotations__ if name in given}
    transform = given.pop("transform", None)
    config = LoaderConfig(**given)
    if transform is not None and not callable(transform):
        raise LoaderError(f"transform={transform!r} is not callable. Pass a function of a batch, or None.")
    return delivery, transform, config


def check_windows(windows: object, config: LoaderConfig) -> None:
    """Raise `LoaderError` for what is no `WindowSet`, and for one of which nothing would be loaded."""
    if not isinstance(windows, WindowSet):
        raise LoaderError(
            f"a loader takes one WindowSet, not {type(windows).__name__}. Use wl.WindowSet(series, spec), or "
            "unpack a split: train, val, test = wl.split(series, spec, (0.7, 0.1, 0.2)) and WindowLoader(train)."
        )
    if len(windows) == 0:
        raise LoaderError(f"{windows!r} has no window, so there is nothing to load.")
    batch_size = config.batch_size
    if config.drop_last and config.global_batch_size is None and len(windows) < batch_size:
        raise LoaderError(  # with any number of ranks; other cases are found when that number is known
            f"drop_last=True leaves nothing to load: there are {len(windows)} windows, and "
            f"batch_size={batch_size} per rank. Make the batch smaller, or pass drop_last=False."
        )
