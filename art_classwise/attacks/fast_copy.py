"""A copy of a network made for searching: folded, laid out and rounded as the hardware likes it best.

It is used only where its logits and its input gradients agree with the network's. What is found on it is judged on the
network itself, in float32.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import RLock
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.fusion import fuse_conv_bn_eval

from art_classwise._core.art_interface import Border, logits_module, operations, trial_images
from art_classwise._core.forward import is_out_of_memory
from art_classwise._core.state import evaluating, float32, frozen, is_exported, preserved_random_state, put_in_eval_mode
from art_classwise._core.structure import PerNetwork, structure
from art_classwise.attacks.search import input_gradient
from art_classwise.errors import InputError, check_flag

__all__ = [
    "Bordered",
    "Compile",
    "FastCopy",
    "Precision",
    "check_compile",
    "check_precision",
    "compiled_network",
    "compute_alike",
    "fast_network",
    "multiplies_bfloat16",
]

Precision = Literal["auto", "fp32", "bf16"]

Compile = Literal[False, True, "reduce-overhead"]
"""Whether to compile with ``torch.compile``; in the last mode passes are CUDA graphs, which the host launches whole."""

Bordered = Callable[[nn.Module], nn.Module]
"""A network -> the module that is asked in its place: see :class:`art_classwise._core.art_interface.Border`."""

_LARGE = 1_000_000
"""Weights from which on a copy pays: smaller networks gain less than the copying costs."""

_TRIED = 4
"""Images that a copy is compared on: two of those to be attacked, and two of noise."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Form(NamedTuple):
    """What is done to a copy."""

    compiled: Compile = False
    channels_last: bool = False
    folded: bool = False
    bf16: bool = False


_AS_IT_IS = _Form()


class _Tolerance(NamedTuple):
    """By how much a copy may differ: logits relative to their range, gradients to their length, example by example.

    On 19 networks, trained and not, folding moved gradients by up to 0.007 (a ReLU flips whose input is nearly 0), and
    bfloat16 by up to 0.30 (WRN-34-10); logits moved by up to 1e-5 and by up to 0.016.
    """

    logits: float
    gradient: float


_EXACT = _Tolerance(1e-3, 0.05)
_ROUNDED = _Tolerance(0.1, 0.6)


def fast_network(
    estimator: Any,
    images: npt.NDArray[np.float32],
    precision: Precision = "auto",
    *,
    compile: Compile = False,
    most: int = 1,
) -> nn.Module:
    """Return the module to search on: a fast copy of an estimator's model, or the model itself.

    The copy is kept while the network, its layers and their settings stay the same, and follows its weights.

    Args:
        estimator: An ART ``PyTorchClassifier``.
        images: (n, ...) some of those to be attacked.
        precision: As for :class:`FastCopy`.
        compile: As for :class:`FastCopy`.
        most: How many images are computed at once; for compiling, which is done for a number of them.
    """
    model: nn.Module = estimator.model
    x = trial_images(estimator, images)
    if compile:
        x = x.repeat(-(-most // len(x)), *[1] * (x.dim() - 1))[: max(most, len(x))]

    bordered = logits_module(estimator).around
    if any(is_lazy(p) for p in model.parameters()):  # which have no shape before the network has seen an image
        with torch.no_grad(), evaluating(model):
            bordered(model)(x)
    if _wanted(model, x, precision, compile=compile) == _AS_IT_IS:
        return model
    with _LOCK:
        key = (precision, compile, x.device, tuple(x.shape[1:]), structure(model))
        kept = _COPIES.get(model, key)
        if kept is None or not kept.agrees(model, x, bordered):
            kept = FastCopy(model, x, precision, bordered, compile=compile)
            _COPIES.set(model, key, kept)
        return kept.of(model)


class FastCopy:
    """A copy of a network that computes nearly the same logits (float32) in eval mode, with input gradients, faster.

    Batch norms are folded into the convolutions before them, images and weights laid out channels last, and
    with bf16 the matrix products computed in bfloat16 under autocast, all but those of a linear last layer: rounded to
    8 bits, logits that lie close together would be equal. A copy is accepted if it runs, and if on the
    trial images its logits and input gradients agree with the network's; with folding, the gradient must also come by
    the same operations, since tracing drops what is done to gradients on purpose. Otherwise compiling is left out, then
    the layout, then the folding, then bf16; the network itself is what is left.

    Args:
        model: Maps images to logits. It isn't changed, and not held.
        x: (n, ...) trial images, on the device, of which 4 are used; to compile, as many as are computed at once.
        precision: ``"auto"`` is bf16 for networks of a million weights or more where the hardware multiplies
            bfloat16, else fp32.
        bordered: What is around the network when it is asked.
        compile: Compile with ``torch.compile``: slow to start, for long searches; see :data:`Compile`.
        dynamic: As for ``torch.compile``: whether batches vary in size.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        precision: Precision = "auto",
        bordered: Bordered = Border,
        *,
        compile: Compile = False,
        dynamic: bool | None = None,
    ) -> None:
        self._dynamic = dynamic
        self._form = _AS_IT_IS
        self._copied: nn.Module | None = None
        self._searched: _Searched | None = None
        self._folds: tuple[_Fold, ...] = ()
        wanted = _wanted(model, x, precision, compile=compile)
        if wanted == _AS_IT_IS:
            return
        expected = _tried(bordered(model), x[:_TRIED])
        if expected is None:
            return
        if wanted.folded and not self._make(_Form(folded=True), model, x, bordered, expected):
            wanted = wanted._replace(folded=False)
        for form in _forms(wanted):
            if self._make(form, model, x, bordered, expected):
                break

    @property
    def bf16(self) -> bool:
        """Whether matrix products are computed in bfloat16."""
        return self._form.bf16

    @property
    def compiled(self) -> bool:
        """Whether it is compiled."""
        return bool(self._form.compiled)

    @property
    def channels_last(self) -> bool:
        """Whether images and weights are laid out so."""
        return self._form.channels_last

    def agrees(self, model: nn.Module, x: Tensor, bordered: Bordered = Border) -> bool:
        """Return whether the copy agrees with the network as it is now.

        It is tried each time: what a network computes may change where no weight, layer or setting of it does.
        """
        if self._form == _AS_IT_IS:
            return True
        expected = _tried(bordered(model), x[:_TRIED])
        return expected is not None and self._agreeing(bordered(self.of(model)), x, expected, self._form)

    @torch.no_grad()
    def of(self, model: nn.Module) -> nn.Module:
        """Return the module to search on for the weights and buffers that ``model`` has now.

        Args:
            model: The network copied.
        """
        if self._form == _AS_IT_IS:
            return model
        if self._copied is None or self._searched is None:
            return _Searched(model, self._form)
        source = _unwrapped(model)
        folded = {f.convolution for f in self._folds}
        tensors = dict(_tensors(source))
        # A constant that tracing met has no name there, and does not change.
        _copy_all(
            (tensor, tensors[name])
            for name, tensor in _tensors(self._copied)
            if name.rpartition(".")[0] not in folded and name in tensors
        )
        _fold_all(source, self._copied, self._folds)
        return self._searched

    def _make(self, form: _Form, model: nn.Module, x: Tensor, bordered: Bordered, expected: _Answer) -> bool:
        """Make the copy of this form; return whether it agrees."""
        for rounded in (True, False) if form.bf16 else (False,):  # weights in float32, where autocast is left somewhere
            try:
                self._copied, self._folds = _copy(_unwrapped(model), form)
            except _NotCopiedError:
                if form.folded or form.channels_last or form.compiled:
                    return False
                self._copied, self._folds = None, ()
            except Exception as error:  # of the network's own code, or of tracing: of any kind
                if is_out_of_memory(error):
                    raise
                return False
            if rounded and self._copied is None:
                continue
            self._form, self._searched = form, None
            if self._copied is not None:
                if form.bf16:
                    _keep_head_exact(self._copied, expected.logits.shape[1])
                if rounded:  # autocast would round frozen weights anew at each step
                    for layer in _multiplying(self._copied):
                        layer.to(torch.bfloat16)
                network = self._copied
                if form.compiled:
                    network = compiled_network(network, form.compiled, self._dynamic)
                self._searched = _Searched(network, form)
            if self._agreeing(bordered(self._searched or _Searched(model, form)), x, expected, form):
                return True
        self._form, self._searched, self._copied, self._folds = _AS_IT_IS, None, None, ()
        return False

    def _agreeing(self, module: nn.Module, x: Tensor, expected: _Answer, form: _Form) -> bool:
        got = _tried(module, x if form.compiled else x[:_TRIED])
        if got is None or not _agree(got, expected, _ROUNDED if form.bf16 else _EXACT):
            return False
        exactly = form.folded and not (form.bf16 or form.compiled)
        return not exactly or _same_operations(got.operations, expected.operations, len(self._folds))


class _ExactLinear(nn.Linear):
    """A linear layer that computes in its weights' own type, whatever autocast says."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def _multiplying(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if type(layer) in (*_CONVOLUTIONS, nn.Linear)]


def _keep_head_exact(copied: nn.Module, n_classes: int) -> None:
    """Let the last layer of a copy compute as it is, if it is linear, and not all that there is to round."""
    layers = _multiplying(copied)
    heads = [layer for layer in layers if isinstance(layer, nn.Linear) and layer.out_features == n_classes]
    if heads and len(layers) > 1:
        heads[-1].__class__ = _ExactLinear


class _Searched(nn.Module):
    def __init__(self, module: nn.Module, form: _Form) -> None:
        super().__init__()
        self.module, self.bf16 = module, form.bf16
        self.layout = torch.channels_last if form.channels_last else torch.preserve_format

    def forward(self, x: Tensor) -> Any:
        if self.layout is torch.channels_last:
            x = x.contiguous(memory_format=self.layout)
        # A traced module prints what its code raises, and why, before it raises.
        network = self.module.forward if isinstance(self.module, fx.GraphModule) else self.module
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return network(x)


def _wanted(model: nn.Module, x: Tensor, precision: Precision, *, compile: Compile) -> _Form:
    """Return the form that gains most; as it is, if none gains."""
    large = sum(p.numel() for p in model.parameters()) >= _LARGE
    bf16 = precision == "bf16" or (precision == "auto" and large and multiplies_bfloat16(x.device))
    if not (large or bf16 or compile):
        return _AS_IT_IS
    layers = list(_unwrapped(model).modules())
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in layers)  # tracing would lose them
    traced = not hooked and not any(isinstance(m, torch.jit.ScriptModule) or is_exported(m) for m in layers)
    return _Form(
        compiled=compile,
        channels_last=x.dim() == 4 and any(isinstance(m, nn.Conv2d) for m in layers),
        folded=traced and any(isinstance(m, _BATCH_NORMS) for m in layers),
        bf16=bf16,
    )


def _forms(wanted: _Form) -> Iterator[_Form]:
    """Give the form wanted and those that are left as one thing after the other is left out."""
    for bf16 in (True, False) if wanted.bf16 else (False,):
        form = wanted._replace(bf16=bf16)
        while form != _AS_IT_IS:
            yield form
            name = next((n for n in ("compiled", "channels_last", "folded") if getattr(form, n)), None)
            if name is None:
                break
            form = form._replace(**{name: False})


class _Answer(NamedTuple):
    """What a network gives for the trial images.

    Attributes:
        logits: (n, C).
        gradient: (n, ...) of a random combination of the logits, the same for all images.
        operations: How often each operation stands in the graph that the gradient came by.
    """

    logits: Tensor
    gradient: Tensor
    operations: Counter[str]


def compute_alike(first: nn.Module, second: nn.Module, x: Tensor) -> bool:
    """Return whether two modules give the same logits and input gradients for images x (n, ...), up to rounding.

    Two that give no logits at all count as alike.
    """
    one, other = _tried(first, x), _tried(second, x)
    if one is None or other is None:
        return one is other
    return _agree(other, one, _EXACT)


def _tried(module: nn.Module, x: Tensor) -> _Answer | None:
    """Return what a module gives in eval mode and float32; nothing if it fails, or gives no logits.

    Whatever is wrong with the network itself, the search will say.
    """
    try:
        with preserved_random_state(0), evaluating(module), frozen(module), float32(x.device.type), torch.enable_grad():
            images = x.clone().requires_grad_()
            logits = module(images)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
                return None
            direction = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0)).to(logits.device)
            value = (logits * direction).sum()
            return _Answer(logits.detach(), input_gradient(value, images), _operations(value))
    except Exception as error:  # of the network's own code: of any kind
        if is_out_of_memory(error):
            raise
        return None


def _agree(got: _Answer, expected: _Answer, tolerance: _Tolerance) -> bool:
    """Return whether two networks agree on each of the trial images."""
    n = len(expected.logits)
    if got.logits.shape[1:] != expected.logits.shape[1:]:
        return False
    finite = expected.logits.isfinite()
    logits, others = (torch.where(finite, v.logits[:n], 0.0).double() for v in (expected, got))
    spread = torch.where(finite, expected.logits, -torch.inf).amax(1) - torch.where(
        finite, expected.logits, torch.inf
    ).amin(1)
    gradient, other = (v.gradient[:n].flatten(1).double() for v in (expected, got))
    near = (got.logits[:n].isfinite() == finite).all(1)
    near &= (others - logits).abs().amax(1) <= tolerance.logits * spread
    near &= torch.linalg.vector_norm(other - gradient, dim=1) <= tolerance.gradient * torch.linalg.vector_norm(
        gradient, dim=1
    )
    return bool(near.all())  # the host waits


def _operations(value: Tensor) -> Counter[str]:
    """Count the operations of the graph behind a value, apart from copies."""
    counts = operations(value)
    for name in ("AccumulateGrad", "CloneBackward0", "ToCopyBackward0"):
        counts.pop(name, None)
    return counts


def _same_operations(folded: Counter[str], original: Counter[str], n_folds: int) -> bool:
    """Return whether folding left out so many batch norms, and nothing else."""
    gone = original - folded
    norms = sum(count for name, count in gone.items() if "BatchNorm" in name)
    return not folded - original and norms == sum(gone.values()) == n_folds


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return what ``torch.compile`` compiled, of which a copy would be compiled anew."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) and type(model).__name__ == "OptimizedModule" else model


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return weights and buffers by all their names: layers may share one, of which a fold takes only its own."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


_COPIES: PerNetwork[FastCopy] = PerNetwork(most=2)  # an audit attacks one network after the other, a transfer two
_LOCK = RLock()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16, rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public ones for all versions
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


class _Fold(NamedTuple):
    """The names of a convolution and of the batch norm that was folded into it."""

    convolution: str
    norm: str


class _NotCopiedError(Exception):
    """A network can't be copied."""


@torch.no_grad()
def _copy(model: nn.Module, form: _Form) -> tuple[nn.Module, tuple[_Fold, ...]]:
    """Return a frozen copy in eval mode, folded and laid out as the form says, and what was folded.

    Raises:
        _NotCopiedError: It can't be copied.
    """
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # a lock, a generator, a tensor with history: whatever it is
        if is_out_of_memory(error):
            raise
        raise _NotCopiedError from error
    put_in_eval_mode(copied)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    folds: tuple[_Fold, ...] = ()
    if form.folded:
        with preserved_random_state(1):  # a number that tracing draws is drawn once: it shall not be the trial's
            copied, folds = _fold_batch_norms(copied)
    if form.channels_last:
        for parameter in copied.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return copied, folds


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


def _copy_all(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy into the first of each pair the second, by a kernel for all of a kind."""
    kinds: dict[Any, dict[int, tuple[Tensor, Tensor]]] = {}
    for target, source in pairs:
        kinds.setdefault((target.device, target.dtype, source.dtype), {})[id(target)] = target, source
    for kind in kinds.values():
        targets, sources = map(list, zip(*kind.values(), strict=True))
        torch._foreach_copy_(targets, sources)


def _fold_all(source: nn.Module, copied: nn.Module, folds: Sequence[_Fold]) -> None:
    """Write folded weights into a copy, as :func:`torch.nn.utils.fusion.fuse_conv_bn_weights` computes them.

    That takes ten kernels a layer, of which most are of vectors: here these are taken together.
    """
    if not folds:
        return
    convolutions: list[Any] = [source.get_submodule(fold.convolution) for fold in folds]
    norms: list[Any] = [source.get_submodule(fold.norm) for fold in folds]
    fused: list[Any] = [copied.get_submodule(fold.convolution) for fold in folds]
    variances = torch._foreach_add([norm.running_var for norm in norms], [float(norm.eps) for norm in norms])
    scales = _rsqrt(variances)
    centred = torch._foreach_neg([norm.running_mean for norm in norms])
    with_bias = [i for i, convolution in enumerate(convolutions) if convolution.bias is not None]
    if with_bias:
        torch._foreach_add_([centred[i] for i in with_bias], [convolutions[i].bias for i in with_bias])
    biases = torch._foreach_mul(centred, scales)
    affine = [i for i, norm in enumerate(norms) if norm.weight is not None]
    if affine:
        weights = [norms[i].weight for i in affine]
        torch._foreach_mul_([scales[i] for i in affine], weights)
        torch._foreach_mul_([biases[i] for i in affine], weights)
    shifted = [i for i, norm in enumerate(norms) if norm.bias is not None]
    if shifted:
        torch._foreach_add_([biases[i] for i in shifted], [norms[i].bias for i in shifted])
    for convolution, scale, into in zip(convolutions, scales, fused, strict=True):
        weight = convolution.weight
        torch.mul(weight, scale.reshape(-1, *[1] * (weight.dim() - 1)), out=into.weight)
    _copy_all(zip((into.bias for into in fused), biases, strict=True))


def _rsqrt(tensors: Sequence[Tensor]) -> list[Tensor]:
    together = getattr(torch, "_foreach_rsqrt", None)  # not in torch 2.5
    return list(together(tensors)) if together else [tensor.rsqrt() for tensor in tensors]


def _called(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def compiled_network(network: nn.Module, compile: Compile, dynamic: bool | None) -> nn.Module:
    """Return a network compiled: for batches that vary in size, or don't, or as torch finds out (None)."""
    mode: dict[str, Any] = {"mode": compile} if isinstance(compile, str) else {}
    return cast(nn.Module, torch.compile(network, dynamic=dynamic, **mode))


def check_compile(name: str, compile: Any) -> Any:
    """Return an argument if it is a :data:`Compile`.

    Raises:
        InputError: It isn't.
    """
    if isinstance(compile, str):
        if compile not in get_args(Compile):
            raise InputError(f'`{name}` must be True, False or "reduce-overhead", but got {compile!r}.')
        return compile
    return check_flag(name, compile)


def check_precision(name: str, precision: Any) -> Any:
    """Return an argument if it is a :data:`Precision`.

    Raises:
        InputError: It isn't.
    """
    if precision not in get_args(Precision):
        raise InputError(f'`{name}` must be "auto", "fp32" or "bf16", but got {precision!r}.')
    return precision
