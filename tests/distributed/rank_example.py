"""One rank of an example of the documentation, perhaps killed after some checkpoints.

Run by ``world``: ``rank_example.py script data checkpoint [checkpoints]``. Prints the model's weights.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import signal
import sys

import torch
import torch._dynamo  # optimizers would import it in every rank

import windowloader.adapters.pytorch  # noqa: F401  # for the example


def main(script, data, checkpoint, saves=None):
    save, count = torch.save, 0

    def save_or_die(*arguments):
        nonlocal count
        save(*arguments)
        count += 1
        if count == int(saves):
            os.kill(os.getpid(), signal.SIGKILL)

    if saves is not None:
        torch.save = save_or_die
    with contextlib.redirect_stdout(io.StringIO()):
        model = runpy.run_path(script)["train"](data, checkpoint)
    print(json.dumps([value.hex() for part in model.parameters() for value in part.flatten().tolist()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
