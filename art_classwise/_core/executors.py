"""Engines that others run: work handed to any ``concurrent.futures.Executor``; Dask, Slurm and Ray by their names."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from art_classwise.errors import InputError, first_line

__all__ = ["ENGINES", "bundle_size", "check_engine", "checked_executor", "dispatch", "open_executor", "share_with"]

ENGINES = ("dask:N", "dask://HOST:PORT", "slurm", "ray", "ray://HOST:PORT", "processes:N")
"""What :func:`open_executor` takes."""

_ATTEMPTS = 3
_PER_WORKER = 2
_ANSWER = 4  # seconds to reach a scheduler, and then to be answered
_ADDRESS = re.compile(r"[a-z]+://(?P<host>\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):(?P<port>\d{1,5})/?")

T = TypeVar("T")
R = TypeVar("R")


def dispatch(
    executor: Executor,
    work: Iterable[T],
    submit: Callable[[T], Future[R]],
    receive: Callable[[T, R], None],
    *,
    name: Callable[[T], str],
) -> None:
    """Hand work to an executor, piece by piece in order, a bounded number of pieces at once.

    A piece whose worker dies is handed out again, up to three times in all.

    Args:
        executor: The executor.
        work: The pieces.
        submit: Submits a piece. What a worker runs catches the errors of the work itself: those that reach here are the
            engine's.
        receive: Takes a piece's result.
        name: A piece's name, for a message.

    Raises:
        InputError: The executor is shut down or broken; or a piece's worker died three times.
    """
    most = _PER_WORKER * _n_workers(executor)
    pieces, running, tries = iter(work), dict[Future[R], T](), dict[str, int]()
    waiting: list[T] = []
    try:
        while True:
            while len(running) < most:
                if waiting:
                    piece = waiting.pop(0)
                else:
                    try:
                        piece = next(pieces)
                    except StopIteration:
                        break
                running[_submitted(submit, piece)] = piece
            if not running:
                return
            wait(running, timeout=1, return_when=FIRST_COMPLETED)
            done = [f for f in running if f.done()]  # of a pool that was shut down, wait() leaves out cancelled ones
            for future in done:
                piece = running.pop(future)
                try:
                    result = future.result()
                except Exception as error:  # of the engine: of any kind
                    key = name(piece)
                    tries[key] = tries.get(key, 0) + 1
                    if tries[key] >= _ATTEMPTS:
                        raise _failed(key, error) from error
                    waiting.append(piece)
                    continue
                receive(piece, result)
    finally:
        for future in running:
            future.cancel()


def _failed(key: str, error: Exception) -> InputError:
    advice = "see to the workers (memory, most often) and run the same again"
    if isinstance(error, ImportError):
        advice = "install the same version of art-classwise, with all that it needs, on every worker"
    return InputError(
        f"The workers that computed {key} failed {_ATTEMPTS} times, at last with {type(error).__name__}: "
        f"{first_line(error)}. What is finished is kept: {advice}."
    )


def _submitted(submit: Callable[[T], Future[R]], piece: T) -> Future[R]:
    try:
        return submit(piece)
    except Exception as error:  # of the engine: shut down, or a process pool that has lost a process
        raise InputError(
            f"The executor takes no work: {first_line(error)}. What is finished is kept: run the same again with a new "
            "executor."
        ) from error


def _n_workers(executor: Executor) -> int:
    told = getattr(executor, "n_workers", None)
    value = told() if callable(told) else getattr(executor, "_max_workers", None)
    return max(1, int(value or 8))


def checked_executor(executor: Executor | None) -> Executor | None:
    """Return an argument that is an executor, or None.

    Raises:
        InputError: It is something else.
    """
    if executor is not None and (isinstance(executor, type) or not hasattr(executor, "submit")):
        raise InputError(f"`executor` must be a concurrent.futures.Executor, but is a {type(executor).__name__}.")
    return executor


def bundle_size(executor: Executor, n: int) -> int:
    """Return how many of n units a worker shall take at a time: one, but where starting a worker takes long."""
    told = getattr(executor, "bundle_size", None)
    return max(1, int(told(n))) if callable(told) else 1


def share_with(executor: Executor, value: T) -> T:
    """Return what stands for a large argument of many pieces: an engine that can sends it once to each worker."""
    shared = getattr(executor, "share", None)
    result: T = shared(value) if callable(shared) else value
    return result


@contextmanager
def open_executor(engine: str, options: Sequence[str] = ()) -> Iterator[Executor]:
    """Yield the executor that an engine's name says; it is closed at the end.

    Args:
        engine: ``"dask:4"``, four workers of a thread each on this machine; ``"dask://HOST:PORT"``, a scheduler that
            runs; ``"slurm"``, by submitit; ``"ray"``, on this machine, or ``"ray://HOST:PORT"``; ``"processes:4"``.
        options: ``KEY=VALUE`` of Slurm, as submitit names them: ``slurm_partition=gpu``, ``timeout_min=60``.

    Raises:
        InputError: The engine is unknown or not installed, no scheduler answers within ten seconds, or an option isn't
            written so.
    """
    check_engine(engine, options)
    kind, _, rest = engine.partition(":")
    opened: Executor
    if kind == "dask":
        opened = DaskExecutor(engine if rest.startswith("//") else int(rest))
    elif kind == "processes":
        opened = _processes(int(rest))
    elif kind == "slurm":
        opened = SlurmExecutor(_options(options))
    else:
        opened = RayExecutor(None if engine == "ray" else engine)
    try:
        yield opened
    finally:
        opened.shutdown(wait=False, cancel_futures=True)


def check_engine(engine: str, options: Sequence[str] = ()) -> None:
    """Check the name of an engine and how its options are written, and start nothing.

    Args:
        engine: As for :func:`open_executor`.
        options: Likewise.

    Raises:
        InputError: There is no such engine, or an option is for another one or isn't written so.
    """
    kind, _, rest = engine.partition(":")
    if options and kind != "slurm":
        raise InputError(f"--slurm is for --on slurm, not for --on {engine}.")
    counted = kind in ("dask", "processes") and re.fullmatch(r"[1-9]\d*", rest)
    if not (counted or engine in ("slurm", "ray") or (kind in ("dask", "ray") and rest.startswith("//"))):
        raise InputError(f"Unknown engine {engine!r}. Write {', '.join(ENGINES)}.")
    _options(options)


def _processes(n: int) -> Executor:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    return ProcessPoolExecutor(n, mp_context=context, initializer=_compute_with_one_thread)


def _compute_with_one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # as Dask and Ray have it: n processes with a thread for each core would wait for another


def _check_answers(address: str, what: str, start: str) -> None:
    """Check that something listens at an address: what engines try themselves takes them up to a minute.

    Raises:
        InputError: It isn't written as one, or nothing does.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InputError(f"--on {address} isn't an address: write it as {address.partition(':')[0]}://HOST:PORT.")
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), timeout=_ANSWER).close()
    except OSError as error:
        raise _silent(address, what, start, error) from error


def _silent(address: str, what: str, start: str, error: Exception) -> InputError:
    why = first_line(error) if str(error) else f"nothing said within {_ANSWER} s"
    return InputError(f"No {what} answers at {address} ({why}): is `{start}` running there?")


def _options(texts: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not (separator and key.isidentifier()):
            raise InputError(f"--slurm takes KEY=VALUE, such as slurm_partition=gpu or timeout_min=60, not {text!r}.")
        values[key] = int(value) if value.isdecimal() else value
    return values


def _missing(package: str, error: ImportError) -> InputError:
    return InputError(
        f"The package {package} isn't installed ({first_line(error)}): pip install 'art-classwise[{package}]'."
    )


class DaskExecutor(Executor):
    """Dask: a unit per worker thread, on a GPU where workers have declared one as a resource named GPU.

    Args:
        where: A scheduler's address, ``"dask://HOST:PORT"``, or how many workers to start on this machine.

    Raises:
        InputError: Dask isn't installed, or no scheduler answers.
    """

    def __init__(self, where: str | int) -> None:
        try:
            from dask.distributed import Client, LocalCluster
        except ImportError as error:
            raise _missing("dask", error) from error
        self._cluster: Any = None
        if isinstance(where, int):
            self._cluster = LocalCluster(
                n_workers=where, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR
            )
            self._client = Client(self._cluster, set_as_default=False)
        else:
            asked, start = (where, "Dask scheduler"), "dask scheduler"
            _check_answers(*asked, start)
            address = where.replace("dask://", "tcp://", 1)
            try:
                _greet(address)
                self._client = Client(address, timeout=_ANSWER, set_as_default=False)
            except (OSError, FutureTimeoutError, asyncio.TimeoutError) as error:
                raise _silent(*asked, start, error) from error
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        if not workers:
            warnings.warn(f"{where} has no workers yet: units wait for `dask worker` to be started.", stacklevel=2)
        gpu = any(worker.get("resources", {}).get("GPU") for worker in workers)
        self._executor = self._client.get_executor(
            pure=False, retries=_ATTEMPTS - 1, **({"resources": {"GPU": 1}} if gpu else {})
        )

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's own page; None where this machine's cluster lacks bokeh, which draws it."""
        if self._cluster is not None and importlib.util.find_spec("bokeh") is None:
            return None
        link: str = self._client.dashboard_link
        return link

    def n_workers(self) -> int:
        """Return how many threads there are now."""
        return sum(self._client.nthreads().values()) or 1

    def share(self, value: Any) -> Any:
        """Put a value where all workers have it."""
        return self._client.scatter(value, hash=False)

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """See ``concurrent.futures.Executor``."""
        future: Future[R] = self._executor.submit(fn, *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See ``concurrent.futures.Executor``."""
        self._executor.shutdown(wait=wait)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def _greet(address: str) -> None:
    """Shake hands with a Dask scheduler, and leave: Dask's own client waits a minute for one that keeps silent.

    Raises:
        OSError: What listens there is something else.
        TimeoutError: It says nothing.
    """
    from distributed.comm.core import connect

    done = Future[None]()

    async def shake() -> None:
        try:
            (await connect(address, timeout=_ANSWER)).abort()
        except Exception as error:  # of Dask's
            done.set_exception(error)
        else:
            done.set_result(None)

    # A thread of its own: a notebook's runs a loop already, and a connection that hangs is left behind.
    threading.Thread(target=lambda: asyncio.run(shake()), daemon=True).start()
    done.result(timeout=_ANSWER)


class SlurmExecutor(Executor):
    """Slurm, by submitit: a job per unit. Where there is no Slurm, submitit runs jobs as processes of this machine.

    Args:
        options: Of submitit: ``slurm_partition``, ``timeout_min``, ``gpus_per_node``, ``cluster`` and so on.
        folder: Of its files, which all nodes must see.

    Raises:
        InputError: submitit isn't installed, or knows no such option.
    """

    def __init__(self, options: dict[str, Any], folder: Path | str = ".submitit") -> None:
        try:
            import submitit
        except ImportError as error:
            raise _missing("slurm", error) from error
        options = dict(options)
        cluster = options.pop("cluster", None)
        jobs = options.pop("jobs", 16)
        if not isinstance(jobs, int) or jobs < 1:
            raise InputError(f"--slurm jobs=N takes a whole number of at least 1, not {jobs!r}.")
        self._most = jobs
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**options)
        except (TypeError, ValueError, NameError, RuntimeError) as error:
            raise InputError(f"submitit refuses --slurm's options: {first_line(error)}") from error
        self._jobs: dict[Any, Future[Any]] = {}
        self._lock, self._stopped = threading.Lock(), False
        self._watcher: threading.Thread | None = None

    def n_workers(self) -> int:
        """Return how many jobs run or wait at once, half of them: ``--slurm jobs=16``."""
        return max(1, self._most // _PER_WORKER)

    def bundle_size(self, n: int) -> int:
        """Return how many of n units one job takes."""
        return -(-n // self._most)

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """See ``concurrent.futures.Executor``."""
        if self._stopped:
            raise RuntimeError("cannot schedule new futures after shutdown")
        job, future = self._executor.submit(fn, *args, **kwargs), Future[R]()
        future.set_running_or_notify_cancel()
        with self._lock:
            self._jobs[job] = future
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()
        return future

    def _watch(self) -> None:
        while not self._stopped:
            with self._lock:
                finished = [job for job in self._jobs if job.done()]
                futures = [(job, self._jobs.pop(job)) for job in finished]
            for job, future in futures:
                try:
                    result = job.result()
                except Exception as error:  # the job's, or the engine's
                    future.set_exception(error)
                else:
                    future.set_result(result)
            time.sleep(0.2)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See ``concurrent.futures.Executor``."""
        while wait and self._jobs:
            time.sleep(0.2)
        self._stopped = True
        for job in self._jobs:
            job.cancel()


class RayExecutor(Executor):
    """Ray: a task per unit, on a GPU where the cluster has any.

    Args:
        address: Of a cluster, ``"ray://HOST:PORT"``; None starts one on this machine.

    Raises:
        InputError: Ray isn't installed, or no cluster answers.
    """

    def __init__(self, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise _missing("ray", error) from error
        self._ray: Any = ray
        self._begun = not ray.is_initialized()
        if self._begun:
            options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
            if address:
                _check_answers(address, "Ray cluster", "ray start --head")
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            except Exception as error:  # of Ray's own kinds
                where = "on this machine" if address is None else f"at {address}"
                raise InputError(f"Ray can't be used {where}: {first_line(error)}") from error
        gpu = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {}
        self._options = {"num_cpus": 1, "max_retries": _ATTEMPTS - 1, **gpu}
        self._tasks: dict[Any, Any] = {}

    def n_workers(self) -> int:
        """Return how many tasks run at once."""
        resources = self._ray.cluster_resources()
        return int(resources.get("GPU") or resources.get("CPU") or 1)

    def share(self, value: Any) -> Any:
        """Put a value where all workers have it."""
        return self._ray.put(value)

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """See ``concurrent.futures.Executor``."""
        if fn not in self._tasks:
            self._tasks[fn] = self._ray.remote(**self._options)(fn)
        future: Future[R] = self._tasks[fn].remote(*args, **kwargs).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See ``concurrent.futures.Executor``."""
        if self._begun:
            self._ray.shutdown()
