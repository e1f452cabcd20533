"""Fork ranks off one process that has imported what takes seconds to import.

Run by ``world``: ``fork_ranks.py folder ranks script arguments…``. Each rank has the variables of torchrun and runs the
script as its main program; what it prints goes to ``folder/<rank>.out`` and ``.err``. Prints how each ended, as JSON.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path


def become(rank, ranks, folder, command):
    """Run as one rank; never returns."""
    for descriptor, ending in ((1, "out"), (2, "err")):
        target = os.open(folder / f"{rank}.{ending}", os.O_WRONLY | os.O_CREAT)
        os.dup2(target, descriptor)
    names = {
        "RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_RANK": rank,
        "RENDEZVOUS": f"file://{folder}/rendezvous",
    }
    os.environ.update({name: str(value) for name, value in names.items()})
    sys.argv = command
    code = 0
    try:
        runpy.run_path(command[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(folder, ranks, command):
    import torch

    runpy.run_path(command[0], run_name="imports")  # what the script imports at its top, once for all ranks
    with socket.create_server(("localhost", 0)) as free:  # for scripts that meet by address
        os.environ.update({"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])})
    torch.set_num_threads(1)
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            become(rank, ranks, folder, command)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
