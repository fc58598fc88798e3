"""Measurements in separate processes: a script calls itself with a function's name and arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def apart(script: str, task: str, processes: int = 0, **arguments: Any) -> dict[str, Any] | None:
    """Run a function of a script in a process of its own, or in several of one thread that ``torchrun`` starts.

    Args:
        script: Its file, which hands its functions to :func:`answer`.
        task: The function's name.
        processes: How many, of one thread each; 0 is one with all the threads there are.
        **arguments: The function's arguments, which JSON can hold.

    Returns:
        What it returned, in the first process; None, with the reason printed, if it failed.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*(torchrun if processes > 1 else ()), script, task, json.dumps(arguments)]
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if processes else {})}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line] or ["no message"]
        print("  left out:", said[0 if processes > 1 else -1].strip(), flush=True)
        return None
    returned: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return returned


def answer(*tasks: Callable[..., dict[str, Any]]) -> None:
    """Run the one of these functions that the command line names, and print what it returns."""
    known = {task.__name__: task for task in tasks}
    returned = known[sys.argv[1]](**json.loads(sys.argv[2]))
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(returned))
