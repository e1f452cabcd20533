"""One way to compile kernels: without the GIL, kept on disk where that is possible.

In: a plain function. Out: the compiled one. Never imports numba before a kernel module is imported,
and never fails because no cache folder can be written (a read-only install compiles in memory).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

__all__ = ["kernel"]


def kernel(function: F) -> F:
    """Compile ``function`` with numba: ``nogil``, IEEE arithmetic (no fast-math), cached on disk.

    Parameters
    ----------
    function : callable
        Typed by its first call; every further combination of dtypes compiles once more.

    Returns
    -------
    callable
        The dispatcher. Its cache lies beside the module or, where that is read-only, in the
        user's cache folder; where neither can be written it compiles in memory.
    """
    import numba

    try:
        return cast("F", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba: no locator available, nothing can be written
        return cast("F", numba.njit(nogil=True)(function))
