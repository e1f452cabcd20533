"""Private memory, watched while something runs; in a process of its own, where nothing else is freed meanwhile."""

import subprocess
import sys


def test_memory_is_watched_where_it_is_held():
    code = (
        "import numpy as np\n"
        "from windowloader.util.units import MemoryWatch\n"
        "with MemoryWatch() as watch:\n"
        "    held = np.ones(40_000_000, np.uint8)\n"
        "del held\nwith MemoryWatch() as second:\n"
        "    pass\n"
        "print(watch.grown, second.grown)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True
    )
    grown, idle = map(int, done.stdout.split())
    assert 0.9 * 40_000_000 < grown < 1.3 * 40_000_000
    assert idle < 4_000_000
