"""Networks are built only as large as their weights, or as the memory: names and headers of files may say anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy

from art_classwise._core.forward import is_out_of_memory
from art_classwise._core.memory import memory_size, size_text
from art_classwise.errors import InputError

__all__ = ["as_large_as", "is_too_large", "within_memory"]

_TENSORS, _NUMBERS = 1_000, 1 << 24
"""Layers that a network makes and replaces again, and buffers that it keeps out of its state dict, may come on top."""


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Stop building a network that doesn't fit into memory, before its weights are drawn.

    Args:
        what: The network, to begin a message.

    Raises:
        InputError: It is too large.
    """
    limit = memory_size()
    too_large = InputError(
        f"{what} is too large for the memory of this machine, {size_text(limit)}: choose a smaller one."
    )
    with _counting(limit, None, too_large):
        try:
            yield
        except (RuntimeError, MemoryError, OverflowError) as error:
            if is_too_large(error):
                raise too_large from error
            raise


def is_too_large(error: Exception) -> bool:
    """Return whether an error says that a network doesn't fit into memory."""
    # torch says "Storage size calculation overflowed", or that its allocator can't.
    return is_out_of_memory(error) or isinstance(error, MemoryError) or "overflow" in str(error).lower()


@contextmanager
def as_large_as(weights: Mapping[str, Any], what: str, holder: str) -> Iterator[None]:
    """Stop building a network once it has far more weights than there are for it.

    It stops when a layer is made, before its weights are drawn: an absurd one costs neither memory nor time.

    Args:
        weights: A state dict.
        what: The network, for messages.
        holder: What holds the weights, to begin a message.

    Raises:
        InputError: It is of another architecture.
    """
    tensors = [value for value in weights.values() if isinstance(value, Tensor) and not is_lazy(value)]
    numbers = sum(value.numel() for value in tensors)
    other = InputError(
        f"{holder} is of another architecture than {what}, which has far more weights than the {numbers:,} numbers in "
        f"{len(tensors):,} tensors there."
    )
    with _counting(8 * (2 * numbers + _NUMBERS), 2 * len(tensors) + _TENSORS, other):
        yield


@contextmanager
def _counting(most_bytes: int, most_tensors: int | None, error: InputError) -> Iterator[None]:
    """Raise an error once the layers that this thread makes have more parameters and buffers than these."""
    thread, count, size = threading.get_ident(), 0, 0

    def count_one(module: nn.Module, name: str, value: Any) -> None:
        nonlocal count, size
        if threading.get_ident() != thread or not isinstance(value, Tensor) or is_lazy(value):
            return
        count += 1
        size += value.numel() * value.element_size()
        if size > most_bytes or (most_tensors is not None and count > most_tensors):
            raise error

    hooks = [
        torch_module.register_module_parameter_registration_hook(count_one),
        torch_module.register_module_buffer_registration_hook(count_one),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
