"""Context managers that put back what they changed: modes, requires_grad flags, gradients, random state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import fx, nn

__all__ = [
    "evaluating",
    "float32",
    "frozen",
    "is_exported",
    "no_seed_for_cuda",
    "one_thread",
    "preserved",
    "preserved_random_state",
    "put_in_eval_mode",
]


@contextmanager
def _modes_kept(module: nn.Module) -> Iterator[None]:
    # Of each submodule: some may be frozen in eval mode. Frozen TorchScript has no mode at all.
    modes = [(m, m.training) for m in module.modules() if hasattr(m, "training")]
    try:
        yield
    finally:
        for submodule, mode in modes:
            if submodule.training != mode:
                submodule.training = mode


@contextmanager
def _flags_kept(module: nn.Module) -> Iterator[None]:
    # Not of inference tensors, which refuse to be changed, and no gradient goes through them.
    flags = [(p, p.requires_grad) for p in module.parameters() if not p.is_inference()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode; restore the mode of every submodule on exit.

    Graphs of ``torch.export`` have no modes: they stay what they were exported as.
    """
    with _modes_kept(module):
        put_in_eval_mode(module)
        yield


def put_in_eval_mode(module: nn.Module) -> None:
    """Put a module in eval mode, all but the graphs of ``torch.export`` in it."""
    parts = list(module.modules())
    if not any(is_exported(part) for part in parts):
        module.eval()
        return
    for part in parts:  # eval() of what holds such a graph would reach the graph's, which raises
        if not is_exported(part):
            part.training = False


def is_exported(module: nn.Module) -> bool:
    """Return whether a module is a graph of ``torch.export``, which refuses to change its mode."""
    return isinstance(module, fx.GraphModule) and isinstance(vars(module).get("eval"), MethodType)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Stop gradients at the parameters, so that only the input's gradient is computed."""
    with _flags_kept(module):
        for parameter in module.parameters():  # one by one: TorchScript has no requires_grad_ of its own
            if parameter.requires_grad and not parameter.is_inference():
                parameter.requires_grad_(False)
        yield


@contextmanager
def preserved(module: nn.Module) -> Iterator[None]:
    """Restore every submodule's mode and every parameter's requires_grad flag and gradient on exit."""
    gradients = [(p, p.grad) for p in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None  # the caller's gradient is set aside, not written to
    with _modes_kept(module), _flags_kept(module):
        try:
            yield
        finally:
            for parameter, gradient in gradients:
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
def float32(device_type: str, *, tf32: bool = False) -> Iterator[None]:
    """Compute in float32 to the last digit: no autocast, no TF32, no bfloat16 inside of matrix products.

    Args:
        device_type: ``"cpu"``, ``"cuda"``, ...
        tf32: Let a CUDA GPU round what it multiplies to TF32's 10 bits, where it can: several times as fast.
    """
    rounded = tf32 and device_type == "cuda"
    with torch.autocast(device_type, enabled=False), ExitStack() as restored:
        backends: Any = torch.backends  # what it holds differs between versions
        try:
            convolutions, products = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        except RuntimeError:  # the caller says it in torch 2.9's new way, which forbids asking in the old one
            places: list[Any] = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
            elsewhere = [backends.mkldnn.matmul]
        else:
            places, elsewhere = [], []
            restored.callback(setattr, backends.cudnn, "allow_tf32", convolutions)
            restored.callback(torch.set_float32_matmul_precision, products)
            backends.cudnn.allow_tf32 = rounded
            torch.set_float32_matmul_precision("high" if rounded else "highest")
        if hasattr(backends.mkldnn, "conv"):  # only the new way reaches these
            elsewhere += [backends.mkldnn.conv, backends.mkldnn.rnn]
        for place in (*places, *elsewhere):
            restored.callback(setattr, place, "fp32_precision", place.fp32_precision)
            place.fp32_precision = "tf32" if rounded and place not in elsewhere else "ieee"
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: sums are then taken in one order, whatever the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def no_seed_for_cuda() -> Iterator[None]:
    """Keep others' code from queueing a seed for a CUDA that isn't in use: later draws there would follow it."""
    if torch.cuda.is_initialized():
        yield
        return
    with patch.object(torch.cuda, "manual_seed_all"), patch.object(torch.cuda.random, "manual_seed"):
        yield
