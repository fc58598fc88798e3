"""A copy of a network made for searching: folded, laid out and rounded as the hardware likes it best.

What is found on it is judged on the network itself, in float32.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from art_classwise._state import evaluating, float32
from art_classwise.errors import InputError

__all__ = ["FastCopy", "Precision", "check_precision", "fast_module", "multiplies_bfloat16"]

Precision = Literal["auto", "fp32", "bf16"]

_LARGE = 1_000_000
"""Weights from which on a copy pays: smaller networks gain less than the copying costs."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fast_module(module: nn.Module, x: Tensor, precision: Precision = "auto", *, compile: bool = False) -> nn.Module:
    """Return a module that computes nearly the same logits (float32) in eval mode, with input gradients, faster.

    As :class:`FastCopy`; ``module`` itself if there is nothing to gain.
    """
    return FastCopy(module, x, precision, compile=compile).of(None)


class FastCopy:
    """A copy of a network that computes nearly the same logits (float32) in eval mode, with input gradients, faster.

    Batch norms are folded into the convolutions before them, images and weights laid out channels last, and
    with bf16 the matrix products computed in bfloat16 under autocast. Folding is undone if logits don't agree on
    two images (a network that draws random numbers, say); a network that can't be copied is searched as it is.

    Args:
        module: Maps images to logits. It isn't changed.
        x: (n, ...) images, on the device.
        precision: ``"auto"`` is bf16 for networks of a million weights or more where the hardware multiplies
            bfloat16, else fp32.
        compile: Compile with ``torch.compile``: slow to start, for long searches.
        dynamic: As for ``torch.compile``: whether batches vary in size.

    Attributes:
        bf16: Whether matrix products are computed in bfloat16.
        channels_last: Whether images and weights are laid out so.
    """

    def __init__(
        self,
        module: nn.Module,
        x: Tensor,
        precision: Precision = "auto",
        *,
        compile: bool = False,
        dynamic: bool | None = None,
    ) -> None:
        large = sum(p.numel() for p in module.parameters()) >= _LARGE
        self._module = module
        self._copied: nn.Module | None = None
        self._searched: nn.Module | None = None
        self._folds: tuple[_Fold, ...] = ()
        self.channels_last = False
        self.bf16 = precision == "bf16" or (precision == "auto" and large and multiplies_bfloat16(x.device))
        self._gains = large or self.bf16 or compile
        if not self._gains:
            return
        with evaluating(module):
            copied, self._folds = _copy(module, x[:2])
        if copied is None:
            return
        self._copied = copied
        self.channels_last = x.dim() == 4 and any(isinstance(m, nn.Conv2d) for m in copied.modules())
        if self.channels_last:
            cast(Any, copied).to(memory_format=torch.channels_last)  # older torch doesn't type it
        searched = _Searched(copied, bf16=self.bf16, channels_last=self.channels_last)
        if self.bf16:
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
            searched.module = cast(nn.Module, torch.compile(copied, dynamic=dynamic))
        self._searched = searched

    @torch.no_grad()
    def of(self, source: nn.Module | None) -> nn.Module:
        """Return the module to search on for the weights and buffers that ``source`` has now.

        Args:
            source: The network copied, or one built as it; none means the weights that were copied.
        """
        if self._searched is None or self._copied is None:
            source = self._module if source is None else source
            return _Searched(source, bf16=self.bf16, channels_last=False) if self._gains else source
        if source is None:
            return self._searched
        folded = {f.convolution for f in self._folds}
        tensors = dict(_tensors(source))
        for name, tensor in _tensors(self._copied):
            # A constant that tracing met has no name there, and does not change.
            if name.rpartition(".")[0] not in folded and name in tensors:
                tensor.copy_(tensors[name])
        for fold in self._folds:
            convolution: Any = source.get_submodule(fold.convolution)
            norm: Any = source.get_submodule(fold.norm)
            weight, bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            fused: Any = self._copied.get_submodule(fold.convolution)
            fused.weight.copy_(weight)
            fused.bias.copy_(bias)
        return self._searched


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return weights and buffers by all their names: layers may share one, of which a fold takes only its own."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


class _Fold(NamedTuple):
    """The names of a convolution and of the batch norm that was folded into it."""

    convolution: str
    norm: str


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


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16, rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public ones for all versions
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


@torch.no_grad()
def _copy(module: nn.Module, x: Tensor) -> tuple[nn.Module | None, tuple[_Fold, ...]]:
    """Return a frozen copy in eval mode, folded if that changes nothing; nothing if it can't be copied."""
    try:
        copied = copy.deepcopy(module).eval().requires_grad_(False)
    except Exception:  # a lock, a generator, a tensor with history: whatever it is, searching goes without a copy
        return None, ()
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())  # tracing would lose them
    if hooked or not any(isinstance(m, _BATCH_NORMS) for m in module.modules()):
        return copied, ()
    try:
        folded, folds = _fold_batch_norms(copied)
        with float32(x.device.type):
            expected, got = module(x), folded(x)
        if torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            return folded, folds
    except Exception:  # its code can't be traced, or it doesn't return logits: the search will say so
        pass
    del copied  # tracing ran its code, which may keep what it was given: see Kang2021Stable's ODE block
    return copy.deepcopy(module).eval().requires_grad_(False), ()


def _fold_batch_norms(module: nn.Module) -> tuple[fx.GraphModule, tuple[_Fold, ...]]:
    """Fold each batch norm into the convolution before it, where each is used once and for the other.

    The module stays whole: tracing makes a new tree of its layers, in which fused ones stand in for both.
    """
    traced = fx.symbolic_trace(module)
    calls = Counter(id(_called(traced, node)) for node in traced.graph.nodes)
    # A weight that is also read directly must stay as it is.
    read = {str(node.target).rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr"}
    folds = []
    for node in traced.graph.nodes:
        norm = _called(traced, node)
        before = node.args[0] if node.args else None
        if not (type(norm) in _BATCH_NORMS and isinstance(before, fx.Node) and len(before.users) == 1):
            continue
        convolution = _called(traced, before)
        once = calls[id(norm)] == calls[id(convolution)] == 1 and str(before.target) not in read
        if type(convolution) in _CONVOLUTIONS and once:
            fused = fuse_conv_bn_eval(cast(Any, convolution), cast(Any, norm))
            traced.set_submodule(str(before.target), fused)
            folds.append(_Fold(str(before.target), str(node.target)))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced.requires_grad_(False), tuple(folds)


def _called(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def check_precision(precision: object) -> None:
    """Check that ``precision`` is a :data:`Precision`.

    Raises:
        InputError: It isn't.
    """
    if precision not in get_args(Precision):
        raise InputError(f'`precision` must be "auto", "fp32" or "bf16", but got {precision!r}.')
