"""Fitting scalers: in one call, or from parts that were computed anywhere.

In: a window set and options. Out: a scaler of the class that was asked. Never holds statistics itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from .fit import Fit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Unpack

    from windowloader.windows.window_set import WindowSet

    from .fit import FitOptions, Make, Part

__all__ = ["Fitted"]


class Fitted:
    """What is fitted on a window set; `Scaler` adds what is done with the statistics."""

    __slots__ = ()
    OWN: ClassVar[tuple[str, ...]] = ()  # options of `fit` that only this class has

    @classmethod
    def fit(cls, window_set: WindowSet, **options: Unpack[FitOptions]) -> Self:
        """Compute the statistics of the rows that a window set reads, in one pass.

        Missing values are left out. Sums are float64, in groups of 256 rows from the set's first, joined in pairs,
        fours and so on, so that the result is the same to the bit however the data are stored, read and shared out.

        Parameters
        ----------
        window_set : WindowSet
            Usually the train part of a split.
        features : str or sequence of str, optional
            Features, variables or covariates. None: all that the windows read, except clocks and static
            covariates.
        per : {"feature", "node", "entity"}
            One statistic for all nodes, one a node, or one an entity.
        weighting : {"rows", "windows"}
            Count a row once if any window reads it, or as often as windows read it as input (DCRNN and its
            followers, who average over materialised windows).
        unseen : {"raise", "pooled"}
            With ``per="entity"``, for entities without rows in the window set: a loader of windows of theirs raises
            `ScalerError`, or they are scaled by the statistics of all values, those of ``per="feature"``.
        rounding
            As in the constructor.
        progress : callable, optional
            Called with (rows done, rows in all).
        executor : concurrent.futures.Executor, optional
            Processes, threads or a cluster's workers, each of which reads some rows; they open the data themselves.
        epsilon, feature_range
            As in the constructors of `StandardScaler` and `MinMaxScaler`.
        quantile_range : tuple of float
            Of `RobustScaler`: the two quantiles whose distance is the spread, (0.25, 0.75).
        exact_bytes : str or int
            Of `RobustScaler`: limit for the values kept, "256MiB".

        Returns
        -------
        Scaler
            Of the class it was called on.

        Raises
        ------
        MissingDataError
            At a NaN that is not declared missing.
        ScalerError
            At an infinite value, where all of a feature or node is missing, or where the values do not fit in
            ``exact_bytes``.

        Examples
        --------
        >>> import numpy as np, windowloader as wl
        >>> series = wl.Series(np.arange(20.0)[:, None], features=["speed"])
        >>> train, test = wl.split(series, wl.WindowSpec(lookback=2, horizon=1), (0.5, 0.5))
        >>> wl.StandardScaler.fit(train)  # of rows 0 … 9
        StandardScaler(speed: mean 4.5, std 2.87228)
        """
        fit, make, kept = cls._planned(window_set, options)
        return cls._merged(fit, make, kept, fit.parts(make))

    @classmethod
    def fit_partial(
        cls, window_set: WindowSet, rows: slice | range | tuple[int, int], **options: Unpack[FitOptions]
    ) -> Part:
        """Compute the statistics of some rows of a window set, for `merge`; on any machine, in any order.

        Parameters
        ----------
        window_set : WindowSet
            The whole set.
        rows : slice, range or pair of int
            Rows of the series, that begin and end at multiples of 256 from the set's first row, or at its end.
        **options
            Those of `fit`.

        Returns
        -------
        Part
            A few numbers for each statistic; pickles.

        Raises
        ------
        ScalerError
            For rows that end within a group of 256, and as in `fit`.

        Examples
        --------
        >>> import numpy as np, windowloader as wl
        >>> train = wl.WindowSet(wl.Series(np.arange(600.0)[:, None]), wl.WindowSpec(lookback=2, horizon=1))
        >>> parts = [wl.StandardScaler.fit_partial(train, rows) for rows in (slice(256, 600), slice(0, 256))]
        >>> wl.StandardScaler.merge(train, parts) == wl.StandardScaler.fit(train)
        True
        """
        fit, make, _ = cls._planned(window_set, options)
        return fit.partial(make, rows)

    @classmethod
    def merge(cls, window_set: WindowSet, parts: Sequence[Part], **options: Unpack[FitOptions]) -> Self:
        """Make the scaler of all rows from what `fit_partial` returned: to the bit that of `fit`.

        Raises
        ------
        ScalerError
            Where rows are in no part or in two, or where parts are of other options or windows.
        """
        return cls._merged(*cls._planned(window_set, options), parts)

    @classmethod
    def _how(cls, fit: Fit) -> tuple[Make, dict[str, Any]]:
        """Return what makes the reducers of a fit, and the options to keep; takes the class's own options too."""
        raise NotImplementedError

    @classmethod
    def _planned(cls, window_set: WindowSet, options: FitOptions) -> tuple[Fit, Make, dict[str, Any]]:
        given: dict[str, Any] = {**options}
        own = {name: given.pop(name) for name in cls.OWN if name in given}
        fit = Fit(window_set, **given)
        make, kept = cls._how(fit, **own)
        return fit, make, kept if fit.unseen == "raise" else {**kept, "unseen": fit.unseen}

    @classmethod
    def _merged(cls, fit: Fit, make: Make, kept: Mapping[str, Any], parts: Sequence[Part]) -> Self:
        statistics = fit.merged(make, parts)
        scaler = cls._build(
            statistics, per=fit.per, rounding=fit.rounding, _missing=fit.missing, _options=kept
        )
        scaler._warn_constant(fit.place)
        return scaler

    @classmethod
    def _build(cls, statistics: Any, **fields: Any) -> Self:
        """Make a scaler from statistics."""
        raise NotImplementedError

    def _warn_constant(self, place: Callable[[int, int, tuple[int, ...]], str] | None = None) -> None:
        """Warn where a statistic scales nothing."""
        raise NotImplementedError
