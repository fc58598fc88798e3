"""Context managers that put back what they changed: modes, requires_grad flags, gradients, random state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

__all__ = ["evaluating", "frozen", "one_thread", "preserved", "preserved_random_state"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode; restore the mode of every submodule (some may be frozen in eval)."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Stop gradients at the parameters, so that only the input's gradient is computed."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def preserved(module: nn.Module) -> Iterator[None]:
    """Restore every submodule's mode and every parameter's requires_grad flag and gradient on exit."""
    modes = [(m, m.training) for m in module.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in module.parameters()]
    for parameter, _, _ in parameters:
        parameter.grad = None  # the caller's gradient is set aside, not written to
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode
        for parameter, flag, gradient in parameters:
            parameter.requires_grad_(flag)
            parameter.grad = gradient


@contextmanager
def preserved_random_state(seed: int | None = None) -> Iterator[None]:
    """Restore the global random state of ``random``, NumPy and torch (CPU and CUDA) on exit.

    Args:
        seed: If given, all of them start from it inside the block: ART's attacks and modules with dropout
            draw from the global state.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    # Where CUDA isn't in use there is no state to save, and asking for it would make a context.
    cuda = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count() if cuda else 0)
    with torch.random.fork_rng(devices=list(devices)):
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                torch.default_generator.manual_seed(seed)
                if cuda:  # else torch.manual_seed would queue a seed for when CUDA starts, after the block
                    torch.cuda.manual_seed_all(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: sums are then taken in one order, whatever the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
