"""The order of shutdown stages when the interpreter exits, whatever the order of imports."""

import subprocess
import sys

CODE = """
import atexit
from windowloader.util.threads import Stage, at_end, end_all
for stage in reversed(Stage):
    at_end(stage)(lambda stage=stage: print(stage.name))
atexit.register(lambda: print("library"))
atexit.register(end_all)
"""


def test_stages_end_in_their_order_once_and_before_a_library_that_was_imported_since():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["CALL_OFF", "READS", "BATCHES", "LENT", "library"]
