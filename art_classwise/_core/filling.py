"""With how many rows to compute a few examples, so that each gets the bits that it gets in any other batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from art_classwise._core.state import preserved_random_state
from art_classwise._core.structure import PerNetwork, structure

__all__ = ["LEAST", "filled_size", "rows_for"]

LEAST = 16
"""Rows from which on kernels are the same, whatever the network."""

_STEP, _MOST = 4, 64  # fewer rows are tried in steps of so many, below so many: each new number has a cost of its own


def filled_size(n: int) -> int:
    """Return with how many rows a CPU is to compute n examples, so that each gets the same bits as in any other batch.

    Kernels go by the number of rows, and so do the shares of threads. Of 16 networks (convolutions of all kinds, dense
    and recurrent layers, attention) on an AVX-512 CPU, none gave an example other logits or gradients in another batch
    of at least 16 rows, and a multiple of four for each of up to four threads. Neither fewer rows nor odd numbers will
    do: depthwise convolutions differ up to 15 rows, transposed ones at 17, 21 and 81; with two threads dilated ones at
    20, with three group norms at 16. With 16 threads, some differ at 64, too.
    """
    rows = _STEP * min(torch.get_num_threads(), 8)
    coarse = 4 if n <= 64 else 8 if n <= 128 else 16  # a number of rows that is new costs as much as some rows
    rows *= -(-coarse // rows)
    return -(-max(n, LEAST) // rows) * rows


def rows_for(ask: Callable[[Tensor], Any], network: nn.Module | None, x: Tensor) -> int:
    """Return with how many rows to compute x: fewer than :func:`filled_size` where this network lets them be fewer.

    Four rows give most networks the bits of sixteen: with one thread eight of eleven that were tried, all but two with
    depthwise convolutions and, in one layout, a wide ResNet. So a network is tried on noise, with as many rows as the
    next multiple of four and with all: once the rows that were computed in vain are as many as a trial takes. One that
    draws random numbers, or is in training mode, stays filled.

    Args:
        ask: Maps x to logits.
        network: The network within it, under which the answer is kept; None never tries.
        x: (n, ...) on a CPU.
    """
    n, all_rows = len(x), filled_size(len(x))
    fewer = -(-n // _STEP) * _STEP
    if fewer >= min(all_rows, _MOST) or network is None:
        return all_rows
    has_gradient = x.requires_grad and torch.is_grad_enabled()
    now = structure(network)
    kept = _TRIALS.get(network, now)
    if kept is None:
        kept = _Trials()
        _TRIALS.set(network, now, kept)
    key = (fewer, all_rows, tuple(x.shape[1:]), x.dtype, has_gradient, *_settings())
    if key not in kept.alike:
        kept.in_vain[key] = kept.in_vain.get(key, 0) + all_rows - fewer
        if kept.in_vain[key] < all_rows + fewer:
            return all_rows
        kept.alike[key] = _is_triable(network) and _computes_alike(ask, x, fewer, all_rows, has_gradient)
    return fewer if kept.alike[key] else all_rows


@dataclass
class _Trials:
    """What is known of a network, by number of rows: how many were computed in vain, and whether fewer did."""

    in_vain: dict[Any, int] = field(default_factory=dict)
    alike: dict[Any, bool] = field(default_factory=dict)


_TRIALS: PerNetwork[_Trials] = PerNetwork()


def _settings() -> tuple[Any, ...]:
    """Return what else kernels are chosen by."""
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set in torch 2.9's new way, which forbids asking in the old one
        products = ""
    # Where torch 2.9's new way says it.
    own = (getattr(torch.backends.mkldnn, kind, None) for kind in ("conv", "rnn", "matmul"))
    rounded = tuple(getattr(kind, "fp32_precision", "") for kind in own)
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.deterministic
    return torch.get_num_threads(), products, rounded, autocast, deterministic, torch.backends.mkldnn.enabled


def _is_triable(network: nn.Module) -> bool:
    """Return whether a network's passes may be tried: in eval mode, and not compiled for each number of rows."""
    parts = list(network.modules())
    compiled = any(isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod") for part in parts)
    return not compiled and not any(part.training for part in parts)


def _computes_alike(ask: Callable[[Tensor], Any], x: Tensor, fewer: int, all_rows: int, has_gradient: bool) -> bool:
    """Return whether the last rows of a batch get the same logits and input gradients without those before them."""
    low, high = x.detach().aminmax()
    noise = torch.rand(all_rows, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    noise = (low + (high - low).clamp_min(1e-3) * noise).to(x.dtype)
    weights: Tensor | None = None
    found = []
    try:
        with warnings.catch_warnings(), preserved_random_state():
            warnings.simplefilter("ignore")
            for rows in (noise, noise[-fewer:]):
                inputs = rows.clone().requires_grad_(has_gradient)
                logits = ask(inputs)
                if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(rows):
                    return False
                if has_gradient != logits.requires_grad:  # whether there is one may depend on the images
                    return False
                if weights is None:
                    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
                results = [logits.detach()]
                if has_gradient:
                    results += torch.autograd.grad((logits * weights[-len(rows) :]).sum(), inputs)
                found.append([result[-fewer:] for result in results])
    except (RuntimeError, ValueError, TypeError):  # it can't take other rows, or noise
        return False
    return all(torch.equal(a, b) for a, b in zip(*found, strict=True))
