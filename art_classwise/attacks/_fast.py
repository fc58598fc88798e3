"""A copy of a network made for searching: folded, laid out and rounded as the hardware likes it best.

What is found on it is judged on the network itself, in float32.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from art_classwise._state import evaluating, float32
from art_classwise.errors import InputError

__all__ = ["Precision", "check_precision", "fast_module"]

Precision = Literal["auto", "fp32", "bf16"]

_LARGE = 1_000_000
"""Weights from which on a copy pays: smaller networks gain less than the copying costs."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fast_module(module: nn.Module, x: Tensor, precision: Precision = "auto", *, compile: bool = False) -> nn.Module:
    """Return a module that computes nearly the same logits (float32) in eval mode, with input gradients, faster.

    Batch norms are folded into the convolutions before them, images and weights laid out channels last, and
    with bf16 the matrix products computed in bfloat16 under autocast. Folding is undone if logits don't agree on
    two images (a network that draws random numbers, say); a network that can't be copied is searched as it is.

    Args:
        module: Maps images to logits. It isn't changed.
        x: (n, ...) images, on the device.
        precision: ``"auto"`` is bf16 for networks of a million weights or more where the hardware multiplies
            bfloat16, else fp32.
        compile: Compile with ``torch.compile``: slow to start, at each call, for long searches.

    Returns:
        The copy, in eval mode with frozen weights; ``module`` itself if there is nothing to gain.
    """
    large = sum(p.numel() for p in module.parameters()) >= _LARGE
    bf16 = precision == "bf16" or (precision == "auto" and large and _multiplies_bfloat16(x.device))
    if not (large or bf16 or compile):
        return module
    with evaluating(module):
        copied = _copy(module, x[:2])
    if copied is None:
        return _Searched(module, bf16=bf16, channels_last=False)
    channels_last = x.dim() == 4 and any(isinstance(m, nn.Conv2d) for m in copied.modules())
    if channels_last:
        cast(Any, copied).to(memory_format=torch.channels_last)  # older torch doesn't type it
    searched = _Searched(copied, bf16=bf16, channels_last=channels_last)
    if bf16:
        # Autocast would round frozen weights anew at each step. Other layers keep their weights and its rules.
        layers = [layer for layer in copied.modules() if type(layer) in (*_CONVOLUTIONS, nn.Linear)]
        for layer in layers:
            layer.to(torch.bfloat16)
        try:
            with torch.no_grad():
                searched(x[:2])
        except RuntimeError:  # it leaves autocast somewhere, and there types must agree
            for layer in layers:
                layer.to(torch.float32)  # rounded once: what is found is looked at exactly anyway
    if compile:
        searched.module = cast(nn.Module, torch.compile(copied))
    return searched


class _Searched(nn.Module):
    def __init__(self, module: nn.Module, *, bf16: bool, channels_last: bool) -> None:
        super().__init__()
        self.module, self.bf16 = module, bf16
        self.layout = torch.channels_last if channels_last else torch.preserve_format

    def forward(self, x: Tensor) -> Any:
        if self.layout is torch.channels_last:
            x = x.contiguous(memory_format=self.layout)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.module(x)
        return logits.float() if isinstance(logits, Tensor) else logits


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public ones for all versions
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


@torch.no_grad()
def _copy(module: nn.Module, x: Tensor) -> nn.Module | None:
    """Return a frozen copy in eval mode, folded if that changes nothing; nothing if it can't be copied."""
    try:
        copied = copy.deepcopy(module).eval().requires_grad_(False)
    except Exception:  # a lock, a generator, a tensor with history: whatever it is, searching goes without a copy
        return None
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())  # tracing would lose them
    if hooked or not any(isinstance(m, _BATCH_NORMS) for m in module.modules()):
        return copied
    try:
        folded = _fold_batch_norms(copied)
        with float32(x.device.type):
            expected, got = module(x), folded(x)
        same = torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    except Exception:  # its code can't be traced, or it doesn't return logits: the search will say so
        return copied
    return folded if same else copied


def _fold_batch_norms(module: nn.Module) -> fx.GraphModule:
    """Fold each batch norm into the convolution before it, where each is used once and for the other.

    The module stays whole: tracing makes a new tree of its layers, in which fused ones stand in for both.
    """
    traced = fx.symbolic_trace(module)
    calls = Counter(id(_called(traced, node)) for node in traced.graph.nodes)
    for node in traced.graph.nodes:
        norm = _called(traced, node)
        before = node.args[0] if node.args else None
        if not (type(norm) in _BATCH_NORMS and isinstance(before, fx.Node) and len(before.users) == 1):
            continue
        convolution = _called(traced, before)
        if type(convolution) in _CONVOLUTIONS and calls[id(norm)] == calls[id(convolution)] == 1:
            fused = fuse_conv_bn_eval(cast(Any, convolution), cast(Any, norm))
            traced.set_submodule(str(before.target), fused)
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced.requires_grad_(False)


def _called(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def check_precision(precision: object) -> None:
    """Check that ``precision`` is a :data:`Precision`.

    Raises:
        InputError: It isn't.
    """
    if precision not in get_args(Precision):
        raise InputError(f'`precision` must be "auto", "fp32" or "bf16", but got {precision!r}.')
