"""Functions of test files, run in other processes: in one, in several that train together, in one to be killed."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_LONG = 120  # seconds, after which a process hangs, however busy the machine is
_FORKED = multiprocessing.get_context("forkserver")  # which imports once, and knows nothing of the tests' state
_FORKED.set_forkserver_preload(["art_classwise.audit.audit"])


def alone_and_together(script: str, function: str, folder: Path) -> list[list[Any]]:
    """The results of a function in one process, and in each of two that know of each other as under torchrun.

    Args:
        script: The test file.
        function: The function's name; it is given a folder.
        folder: Where the processes may leave things; each run has a folder of its own in it.
    """
    for processes in (1, 2):
        (folder / str(processes)).mkdir()
    alone = Child(script, function, folder / "1")
    both = together(script, function, folder / "2")
    return [[alone.result()], both]


def together(script: str, function: str, *arguments: Any, processes: int = 2) -> list[Any]:
    """The results of a function in each of several processes that know of each other as under torchrun.

    As torchrun's agent does, this process holds the store in which they find each other, at a port that was free.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "TORCHELASTIC_RESTART_COUNT": 0}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    ranks = [
        Rank({**shared, "RANK": rank, "LOCAL_RANK": rank}, script, function, *arguments) for rank in range(processes)
    ]
    return [rank.result() for rank in ranks]


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
    _environment: Mapping[str, object] = {}

    def __init__(self, script: str, function: str, *arguments: Any, **options: Any) -> None:
        self._told, telling = _FORKED.Pipe(duplex=False)
        self._process = _FORKED.Process(
            target=_call,
            args=(telling, script, function, arguments, options, self._environment),
            daemon=self._daemon,
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
            assert self._told.poll(_LONG), "it hangs"
            with self._told:
                self._told.recv()
        except EOFError:
            pass
        self._process.join(_LONG)
        return max(0, -self._process.exitcode)

    def result(self) -> Any:
        """Wait for its end; return what the function returned.

        Raises:
            RuntimeError: It raised an error; or the process was killed.
        """
        try:
            if not self._told.poll(_LONG):
                self._process.kill()
                raise RuntimeError("It hung.")
            returned, error = self._told.recv()
        except EOFError:
            raise RuntimeError("It was killed.") from None
        finally:
            self._told.close()
            self._process.join(_LONG)
        if error is not None:
            raise RuntimeError(error)
        return returned


class Rank(Child):
    """A process with environment variables of its own."""

    def __init__(self, environment: Mapping[str, object], script: str, function: str, *arguments: Any) -> None:
        self._environment = environment
        super().__init__(script, function, *arguments)


class Parent(Child):
    """A process that may start others."""

    _daemon = False


def _call(
    telling: Connection,
    script: str,
    function: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    environment: Mapping[str, object],
) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
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
