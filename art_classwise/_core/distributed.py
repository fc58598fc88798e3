"""Many processes, one job: what ``torchrun`` started, and sums over it."""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from art_classwise.errors import InputError

__all__ = [
    "alone",
    "check_same",
    "from_main",
    "is_main",
    "join",
    "largest",
    "local_rank",
    "meet",
    "rank",
    "share",
    "sum_",
    "use_own_gpu",
    "world",
]

T = TypeVar("T")

_meeting: Any = None  # the group of processes that wait for one another

_alone = 0  # how many blocks of alone() this process is in


@contextmanager
def alone() -> Iterator[None]:
    """Within the block this process works by itself, as if ``torchrun`` hadn't started others."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


def world() -> int:
    """Return the number of processes that ``torchrun`` started; 1 without it."""
    if _alone:
        return 1
    return _started()


def rank() -> int:
    """Return this process's number, from 0."""
    if _alone:
        return 0
    return dist.get_rank() if _joined() else int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return this process's number on its machine, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Return whether this is the process that writes files and shows progress."""
    return rank() == 0


def use_own_gpu() -> None:
    """Make this process's GPU torch's current one, which ART takes; without ``torchrun`` it stays as it is.

    Raises:
        InputError: There are fewer GPUs than processes.
    """
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if _started() == 1 or seen <= 1:  # of one, each process may see another
        return
    if local_rank() >= seen:
        raise InputError(
            f"There are {seen} GPUs for process {local_rank()} of this machine: start no more than {seen}."
        )
    torch.cuda.set_device(local_rank())


def join(device: torch.device) -> None:
    """Meet the other processes, once; nothing where there are none.

    Args:
        device: What this process computes on: nccl connects GPUs, gloo CPUs.

    Raises:
        InputError: This process computes on another's GPU.
    """
    if world() == 1 or _joined():
        return
    if device.type == "cuda" and torch.cuda.device_count() > 1 and device.index != local_rank():
        raise InputError(
            f"Process {rank()} computes on {device}, but should on cuda:{local_rank()}: make the classifier with "
            "as_classifier(), or call torch.cuda.set_device(int(os.environ['LOCAL_RANK'])) before it is made."
        )
    # Torchrun's store outlives the processes that it starts again: newer ones would find the dead ones' addresses.
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    store, _, _ = next(rendezvous("env://", rank(), world()))
    options: dict[str, Any] = {
        "store": PrefixStore(f"restart {restarts}", store),
        "rank": rank(),
        "world_size": world(),
    }
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device, **options)
    else:
        dist.init_process_group("gloo", **options)
    atexit.register(_leave)  # later calls use the same group


def meet() -> None:
    """Wait for the other processes, however long their part of the work takes; nothing where there are none."""
    global _meeting
    if world() == 1:
        return
    join(torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu"))
    if _meeting is None:
        _meeting = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=30))
    dist.barrier(group=_meeting)


def check_same(what: str, value: object, device: torch.device) -> None:
    """Check that all processes have the same of something.

    Raises:
        InputError: One has another than the main process; it is raised in all.
    """
    differs = torch.tensor(from_main(lambda: value) != value, dtype=torch.int64, device=device)
    if int(largest(differs)):
        raise InputError(
            f"The processes have different {what}: each must be given the same, of which it takes its share. Seed what "
            "the script draws before."
        )


def share(n: int) -> slice:
    """Return which of n things are this process's: shares differ by one at most and don't overlap."""
    here, processes = rank(), world()
    return slice(n * here // processes, n * (here + 1) // processes)


def sum_(values: Tensor) -> Tensor:
    """Replace values by their sum over all processes."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def largest(values: Tensor) -> Tensor:
    """Replace values by the largest of all processes."""
    if world() > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def from_main(get: Callable[[], T]) -> T:
    """Return what ``get`` returns in the main process, in all of them; none other calls it.

    Raises:
        InputError: In all of them, if it raised one there: else the others would wait for ever.
    """
    if world() == 1:
        return get()
    held: list[Any] = [None, None]
    if is_main():
        try:
            held[0] = get()
        except InputError as error:
            held[1] = error
    dist.broadcast_object_list(held)
    if held[1] is not None:
        raise held[1]
    result: T = held[0]
    return result


def _started() -> int:
    return dist.get_world_size() if _joined() else int(os.environ.get("WORLD_SIZE", "1"))


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _leave() -> None:
    if _joined():
        dist.destroy_process_group()
