"""A test file run as a script, once plainly and once under torchrun with two processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def alone_and_together(script: str, folder: Path) -> list[list[Any]]:
    """The results of the one process, and of each of the two: what :func:`run_as_script` got in them.

    Args:
        script: The test file.
        folder: Where the processes may leave things; each run has a folder of its own in it.
    """
    started = []
    for processes in (1, 2):
        (folder / str(processes)).mkdir()
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes == 2 else []
        command = [sys.executable, *torchrun, script, str(folder / str(processes))]
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for process in started:
        try:
            output, _ = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends its processes then
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output.decode()
    return [[pickle.loads((folder / str(n) / f"{rank}.pickle").read_bytes()) for rank in range(n)] for n in (1, 2)]


def run_as_script(get: Callable[[Path], Any]) -> None:
    """Keep what ``get`` returns for the folder on the command line; warnings are errors, as in the tests."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "The pseudo-labels have a mean confidence")
    warnings.simplefilter("ignore", ResourceWarning)  # older torch leaves a folder of its own to be cleaned at the end
    folder = Path(sys.argv[1])
    (folder / f"{os.environ.get('RANK', '0')}.pickle").write_bytes(pickle.dumps(get(folder)))
