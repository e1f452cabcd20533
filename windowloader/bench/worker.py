"""One means in a process of its own, doing as it is told.

In: ``python -m windowloader.bench.worker CASE SIZE FILE BATCH``; then, line by line, how many seconds to run. Out: a
line of JSON for the set-up and for each run. Never knows of the other means.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from windowloader.util.units import MemoryWatch

from .cases import CASES, Unavailable
from .sizes import find

__all__ = ["main"]


def say(**values: object) -> None:
    """Write one line for the process that asked."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main(name: str, size: str, file: str, batch: str) -> None:
    """Set up, then run as often as a line comes in."""
    case = next(case for case in CASES if case.name == name)(find(size), Path(file), int(batch))
    try:
        case.imports()
        with MemoryWatch(0.02) as watch:
            begun = time.perf_counter()
            case.setup()
            case.run(0.0)
            ready = time.perf_counter() - begun
            say(setup=ready)
            for line in sys.stdin:
                cpu = time.process_time()
                windows, moved, seconds = case.run(float(line))
                say(
                    windows=windows,
                    bytes=moved,
                    seconds=seconds,
                    cpu=time.process_time() - cpu,
                    peak=watch.peak - watch.begun,
                )
    except (Unavailable, ImportError) as error:
        say(skipped=str(error))
    except Exception as error:
        say(skipped=f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
