"""Forward passes through a network: in micro-batches, the same bits in any batch; and whether it returns logits."""

from __future__ import annotations

import gc
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from art_classwise._core.filling import LEAST, filled_size, rows_for
from art_classwise.errors import InputError

__all__ = [
    "ONE_OUTPUT",
    "MicroBatches",
    "Passes",
    "check_predicts_logits",
    "computing_at_most",
    "count_pass",
    "counted",
    "in_passes",
    "is_out_of_memory",
    "release",
    "usual_batch_size",
    "warn_of_probabilities",
]


@dataclass
class Passes:
    """Passes through a network: each example counts, also those that small batches are filled up with.

    Where a network lets these be left out (:func:`art_classwise._core.filling.rows_for`), they count all the same: so
    numbers don't depend on what was computed before.

    Attributes:
        forwards: Examples that went forward.
        backwards: Of them, those that a gradient came back for.
    """

    forwards: int = 0
    backwards: int = 0


_COUNTING = threading.local()


@contextmanager
def counted(estimator: Any) -> Iterator[Passes]:
    """Count passes within the block, in this thread: those that this package asks for, and those of ART's attacks.

    Args:
        estimator: An ART estimator that is asked.
    """
    passes = Passes()
    # What ART's own attacks call; ours call the network within, or a copy of it, by a Border.
    wrapper = getattr(estimator, "_model", None)
    hooks = wrapper.register_forward_hook(_count_call) if isinstance(wrapper, nn.Module) else None
    before, _COUNTING.passes = getattr(_COUNTING, "passes", None), passes
    try:
        yield passes
    finally:
        _COUNTING.passes = before
        if hooks is not None:
            hooks.remove()


def count_pass(n: int, output: Any) -> None:
    """Count a pass of n examples, if passes are counted here, and the one back once it comes."""
    passes: Passes | None = getattr(_COUNTING, "passes", None)
    if passes is None:
        return
    n += getattr(_COUNTING, "left_out", 0)
    passes.forwards += n
    if isinstance(output, Tensor) and output.requires_grad:
        counting = passes

        def count_back(gradient: Tensor) -> None:
            counting.backwards += n

        output.register_hook(count_back)


def _count_call(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    if inputs and isinstance(inputs[0], Tensor):
        count_pass(len(inputs[0]), output[-1] if isinstance(output, (list, tuple)) and output else output)


class MicroBatches(nn.Module):
    """A network that is asked in passes of a bounded size, on a CPU each filled up: see :func:`filled_size`.

    So outcomes don't depend on the batch size. On a GPU they do, in the last digits, whatever is done.

    Args:
        module: Maps images (n, ...) to logits, each example by itself.
        most: Examples per pass; none means as many as come. With a gradient, all passes are held in memory until it is
            computed: :func:`in_passes` computes gradients with one pass in memory at a time.
        tries: Whether to find out if the network lets few examples be computed with few rows. How many there are may
            then change from one pass to the next.
    """

    def __init__(self, module: nn.Module, most: int | None = None, *, tries: bool = True) -> None:
        super().__init__()
        self.module, self.most, self.tries = module, most, tries

    def forward(self, x: Tensor) -> Any:
        if self.most is None or len(x) <= self.most:
            return self._filled(x)
        outputs = [self._filled(part) for part in x.split(self.most)]
        return torch.cat(outputs) if all(isinstance(o, Tensor) for o in outputs) else outputs[0]

    def _filled(self, x: Tensor) -> Any:
        if len(x) == 0 or x.device.type != "cpu":
            return self.module(x)
        rows = all_rows = filled_size(len(x))
        if rows > len(x) and self.tries:
            rows = rows_for(self._tried, getattr(self.module, "alone", self.module), x)
        if rows == len(x):
            return self._counted_as(all_rows, rows, x)
        lacking = rows - len(x)
        output = self._counted_as(all_rows, rows, torch.cat([x, x[:1].detach().expand(lacking, *x.shape[1:])]))
        return output[: len(x)] if isinstance(output, Tensor) and len(output) == rows else output

    def _counted_as(self, all_rows: int, rows: int, x: Tensor) -> Any:
        _COUNTING.left_out = all_rows - rows
        try:
            return self.module(x)
        finally:
            _COUNTING.left_out = 0

    def _tried(self, x: Tensor) -> Any:
        """Return what the network returns, without counting the pass: it is no attack's."""
        before, _COUNTING.passes = getattr(_COUNTING, "passes", None), None
        try:
            return self.module(x)
        finally:
            _COUNTING.passes = before


def in_passes(compute: Callable[..., tuple[Tensor, ...]], most: int | None, *rows: Tensor) -> tuple[Tensor, ...]:
    """Compute something of examples, a part of them at a time: what a part holds in memory is gone before the next.

    Args:
        compute: Called with a part of each of ``rows``; returns tensors with a row per example.
        most: Examples per part; none means all of them.
        *rows: (n, ...) what is computed of.
    """
    if most is None or len(rows[0]) <= most:
        return compute(*rows)
    parts = [compute(*part) for part in zip(*(one.split(most) for one in rows), strict=True)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def usual_batch_size(device: torch.device, input_shape: Sequence[int]) -> int:
    """Return how many examples to compute at once: a power of two from 16 to 512, by their size.

    On a CPU of many threads, at least as many as a pass is filled up to.
    """
    values, least = (2**26, LEAST) if device.type == "cuda" else (2**20, filled_size(LEAST))
    return int(min(512, max(least, 2 ** int(math.log2(values / math.prod(input_shape))))))


@contextmanager
def computing_at_most(attack: Any, most: int) -> Iterator[None]:
    """Let an ART attack, and one within it, compute at most so many examples at once inside the block.

    One within it: a transfer's, or what ART's PGD hands its work to, which has a batch size of its own.
    """
    changed: list[tuple[Any, str, Any]] = []
    within = getattr(attack, "attack", None)
    for one in (attack, within, getattr(attack, "_attack", None), getattr(within, "_attack", None)):
        name = "micro_batch_size" if hasattr(one, "micro_batch_size") else "batch_size"
        size = getattr(one, name, None)
        if (isinstance(size, int) and size > most) or (size is None and name == "micro_batch_size"):
            changed.append((one, name, size))
            setattr(one, name, most)
    try:
        yield
    finally:
        for one, name, size in changed:
            setattr(one, name, size)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is too little memory, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate")
    )


def release() -> None:
    """Give back what memory a failed computation held."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


ONE_OUTPUT = (
    "A network with one output z for two classes is wrapped in a module that returns torch.cat([-z / 2, z / 2], 1), "
    "z of shape (n, 1) before any sigmoid: these are its two logits."
)


def check_predicts_logits(what: str, estimator: Any, *, postprocessed: bool = False) -> None:
    """Check that what a PyTorch estimator predicts are its network's logits.

    Args:
        what: What to call it in a message.
        estimator: An ART estimator; those that aren't of PyTorch are asked for their predictions themselves.
        postprocessed: Whether postprocessing defences are allowed.

    Raises:
        InputError: It predicts otherwise, by several noisy passes, say.
    """
    from art.estimators.classification import PyTorchClassifier  # seconds, which building a network needn't wait
    from art.estimators.pytorch import PyTorchEstimator

    if not isinstance(estimator, PyTorchEstimator):
        return
    own = getattr(estimator.predict, "__func__", None)
    if own is not PyTorchClassifier.predict:
        raise InputError(
            f"{what} is a {type(estimator).__name__}, which predicts otherwise than by its network's logits: "
            "what is measured here would be that network's robustness, not the defence's. Take the network itself as a "
            "PyTorchClassifier, or one of ART's attacks, which go by the defence's own predictions and gradients."
        )
    if estimator.postprocessing_defences and not postprocessed:
        raise InputError(
            f"{what} has postprocessing defences, which its network's logits don't show: make the classifier without "
            "them."
        )


def warn_of_probabilities(outputs: Tensor, model: nn.Module, consequence: str, *, stacklevel: int) -> None:
    """Warn of a network that seems to return probabilities in place of logits.

    Args:
        outputs: (n, C) what it returns for a few inputs.
        model: The network, whose last layer is named where that is what makes probabilities.
        consequence: What comes of it, in a sentence.
        stacklevel: As for ``warnings.warn``, of this function.
    """
    outputs = outputs.detach().float()
    named = [(name, m) for name, m in model.named_modules() if not list(m.children())]
    last, layer = named[-1] if named else ("", model)
    sums = (outputs.sum(1) - 1).abs() <= 1e-4
    sigmoids = isinstance(layer, nn.Sigmoid) and bool(((outputs >= 0) & (outputs <= 1)).all())
    if not (sigmoids or bool(((outputs >= 0).all(1) & sums).all())):
        return
    way = "return logits, or log-probabilities"
    if isinstance(layer, (nn.Softmax, nn.Softmax2d, nn.Sigmoid)):
        way = f"its last layer, {last!r}, is a {type(layer).__name__}: leave it out, and return the logits before it"
    warnings.warn(f"The model seems to return probabilities. {consequence}: {way}.", stacklevel=stacklevel + 1)
