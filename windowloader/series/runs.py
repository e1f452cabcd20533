"""Runs of equal steps in timestamps, and where time jumps.

In: nanoseconds of rows, or runs of them. Out: first rows of runs, rows after jumps. Never holds more than
what it is given once over.
"""

from __future__ import annotations

import numpy as np

from windowloader.errors import SeriesError

__all__ = ["find_runs", "is_jump", "jumps_of_runs", "jumps_of_stamps", "rising_steps"]


def is_jump(steps: np.ndarray, regular: int) -> np.ndarray:
    """Whether steps are under half or over one and a half times the regular one."""
    return (steps > regular + regular // 2) | (steps < regular - regular // 2)


def rising_steps(stamps: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Return steps from row to row, 0 at an entity's last; `SeriesError` where time does not rise."""
    steps = np.diff(stamps)
    inner = borders[1:-1]
    crossing = inner[(inner > 0) & (inner < len(stamps))] - 1
    steps[crossing] = 1
    wrong = np.flatnonzero(steps <= 0)
    if wrong.size:
        row = int(wrong[0])
        before, after = stamps[row : row + 2].view("datetime64[ns]")
        how = "repeats" if stamps[row] == stamps[row + 1] else "goes back"
        raise SeriesError(
            f"time {how} from row {row} ({before}) to row {row + 1} ({after}); timestamps must rise"
            f"{' within an entity' if len(borders) > 2 else ''}. There are {wrong.size} such rows. Sort the "
            "rows by time and drop repeats, or, where several series lie end to end, say where each begins: "
            "entities=borders."
        )
    steps[crossing] = 0
    return steps


def find_runs(steps: np.ndarray, num_steps: int) -> list[int] | None:
    """Find first rows of runs of equal steps; None where they would take more memory than the timestamps.

    A run reaches as far as its first step repeats. The step to the next run's first row belongs to neither,
    so a gap in regular data costs one run. A step of 0 marks an entity's border, which no run crosses.
    """
    changes = np.flatnonzero(steps[1:] != steps[:-1]) + 1
    if 3 * len(changes) > max(num_steps, 32) * 2:
        return None
    ends = [*changes.tolist(), len(steps)]  # where each group of equal steps ends
    values = steps[np.array([0, *changes.tolist()], np.int64)].tolist() if len(steps) else []
    runs, row, group = [], 0, 0
    while row < num_steps:
        runs.append(row)
        if row == num_steps - 1:
            break
        while ends[group] <= row:
            group += 1
        row = row + 1 if values[group] == 0 else ends[group] + 1
    return runs if 3 * len(runs) <= max(num_steps, 32) else None


def jumps_of_stamps(stamps: np.ndarray) -> np.ndarray:
    """Find jumps among the timestamps of one entity: positions of the rows after them."""
    values = np.diff(stamps)
    middle = (len(values) - 1) // 2
    return 1 + np.flatnonzero(is_jump(values, int(np.partition(values, middle)[middle])))


def jumps_of_runs(rows: np.ndarray, times: np.ndarray, steps: np.ndarray, stop: int) -> np.ndarray:
    """Find jumps of one entity from its runs, so that regular rows cost nothing.

    Parameters
    ----------
    rows, times, steps : ndarray, shape (run,), int64
        First row, its time and the step of each run.
    stop : int
        Row after the last.

    Returns
    -------
    ndarray, shape (jump,), int64
        Rows after a jump, rising.
    """
    ends = np.append(rows[1:], stop)
    within = ends - rows - 1
    between = times[1:] - (times + within * steps)[:-1]
    values = np.concatenate((steps, between))
    counts = np.concatenate((within, np.ones(len(between), np.int64)))
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[order])
    regular = int(values[order][np.searchsorted(reached, (reached[-1] + 1) // 2)])  # the median step
    lone = rows[1:][is_jump(between, regular)]
    whole = np.flatnonzero(is_jump(steps, regular) & (within > 0))
    spread = [np.arange(rows[run] + 1, ends[run], dtype=np.int64) for run in whole]
    return np.sort(np.concatenate([lone, *spread]))
