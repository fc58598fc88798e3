"""Test files run in other processes: as scripts, plainly or under torchrun, or one function of them."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

_FORKED = multiprocessing.get_context("forkserver")  # which imports once, and knows nothing of the tests' state
_FORKED.set_forkserver_preload(["art_classwise.audit.audit"])


def start_script(script: str, *arguments: object, processes: int = 1, options: tuple[str, ...] = ()) -> Any:
    """Start a test file as a script; its output is kept for :func:`finished`.

    Args:
        script: The test file.
        arguments: Its command line.
        processes: How many; under torchrun if more than one.
        options: More of torchrun's own: ``("--max-restarts", "1")``, say.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *options]
    command = [sys.executable, *(torchrun if processes > 1 else []), script, *map(str, arguments)]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(process: Any) -> str:
    """Wait for a script's end, which must be a good one, and return what it printed."""
    try:
        output, _ = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes then
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output.decode()
    return output.decode()


def alone_and_together(script: str, folder: Path) -> list[list[Any]]:
    """The results of the one process, and of each of the two: what :func:`run_as_script` got in them.

    Args:
        script: The test file.
        folder: Where the processes may leave things; each run has a folder of its own in it.
    """
    started = []
    for processes in (1, 2):
        (folder / str(processes)).mkdir()
        started.append(start_script(script, folder / str(processes), processes=processes))
    for process in started:
        finished(process)
    return [results(folder / str(n), n) for n in (1, 2)]


def results(folder: Path, processes: int) -> list[Any]:
    """What :func:`run_as_script` got in each of a script's processes."""
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(processes)]


def run_as_script(get: Callable[[Path], Any]) -> None:
    """Keep what ``get`` returns for the folder on the command line; warnings are errors, as in the tests."""
    _as_in_the_tests()
    folder = Path(sys.argv[1])
    (folder / f"{os.environ.get('RANK', '0')}.pickle").write_bytes(pickle.dumps(get(folder)))


class Child:
    """A process that runs one function of a test file, and may be stopped or killed at any time.

    It begins within a tenth of a second, since what the package needs has been imported for it.

    Args:
        script: The test file.
        function: The function's name.
        arguments: What it is called with.
        options: By name.
    """

    _daemon = True  # if a test fails, it is ended with the tests

    def __init__(self, script: str, function: str, *arguments: Any, **options: Any) -> None:
        self._told, telling = _FORKED.Pipe(duplex=False)
        self._process = _FORKED.Process(
            target=_call, args=(telling, script, function, arguments, options), daemon=self._daemon
        )
        self._process.start()
        telling.close()  # so that the end of the process is the end of the pipe

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or is stopped."""
        return self._process.is_alive()

    def send(self, signal: int) -> None:
        """Send it a signal, if it hasn't ended."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal)

    def died_of(self) -> int:
        """Wait for its end; return the signal that ended it, 0 if it ended by itself."""
        try:
            assert self._told.poll(60), "it hangs"
            with self._told:
                self._told.recv()
        except EOFError:
            pass
        self._process.join(60)
        return max(0, -self._process.exitcode)

    def result(self) -> Any:
        """Wait for its end; return what the function returned.

        Raises:
            RuntimeError: It raised an error; or the process was killed.
        """
        try:
            if not self._told.poll(60):
                self._process.kill()
                raise RuntimeError("It hung.")
            returned, error = self._told.recv()
        except EOFError:
            raise RuntimeError("It was killed.") from None
        finally:
            self._told.close()
            self._process.join(60)
        if error is not None:
            raise RuntimeError(error)
        return returned


class Parent(Child):
    """A process that may start others."""

    _daemon = False


def _call(telling: Connection, script: str, function: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    _as_in_the_tests()
    try:
        spec = importlib.util.spec_from_file_location("a_test_file", script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        told = getattr(module, function)(*arguments, **options), None
    except Exception:
        told = None, traceback.format_exc()
    telling.send(told)
    telling.close()


def _as_in_the_tests() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "The pseudo-labels have a mean confidence")
    warnings.simplefilter("ignore", ResourceWarning)  # older torch leaves a folder of its own to be cleaned at the end
