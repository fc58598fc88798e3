"""Odd networks by what they are in Python and in torch: compiled, parametrised, hooked, stateful, uncopyable."""

from __future__ import annotations

import threading
from typing import Any

import torch
from odd_networks import Written, conv_net, head, odd
from torch import Tensor, nn
from torch.nn.utils import parametrizations

FIXED = {"trains": False}  # weights are constants, or can't be set to require a gradient


@odd("a ScriptModule has no Python forward to trace")
def scripted_large() -> nn.Module:
    return torch.jit.script(conv_net(large=True))


@odd("a traced module holds for the shapes and modes it saw")
def traced_large() -> nn.Module:
    return torch.jit.trace(conv_net(large=True).eval(), torch.rand(2, 3, 8, 8))


@odd("frozen: no parameters are left, and no training mode", **FIXED)
def frozen_script() -> nn.Module:
    return torch.jit.freeze(torch.jit.script(conv_net().eval()))


@odd("an exported program refuses eval() and train()", **FIXED)
def exported() -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=1024)
    return torch.export.export(conv_net().eval(), (torch.rand(3, 3, 8, 8),), dynamic_shapes=({0: batch},)).module()


@odd("an optimised module wraps the original, and names weights otherwise")
def compiled_large() -> nn.Module:
    return torch.compile(conv_net(large=True), backend="eager", dynamic=True)


@odd("compiled ahead of time, backward too")
def compiled_ahead() -> nn.Module:
    return torch.compile(head(192), backend="aot_eager", dynamic=True)


@odd("weights have no shape until the first pass", centred=True)
def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(4))


@odd("weights are computed from others: a copy cast to bfloat16 computes them anew")
def weight_normed_large() -> nn.Module:
    net = conv_net(large=True)
    parametrizations.weight_norm(net[0])
    parametrizations.weight_norm(net[4][3])
    return net


@odd("a power iteration in training mode changes buffers")
def spectral_normed() -> nn.Module:
    net = conv_net()
    parametrizations.spectral_norm(net[0])
    parametrizations.spectral_norm(net[4][1])
    return net


@odd("orthogonal weights: matrix exponentials have no bfloat16", centred=True)
def orthogonal_large() -> nn.Module:
    net = conv_net(large=True)
    net[4] = nn.Sequential(
        nn.Flatten(), parametrizations.orthogonal(nn.Linear(128, 16)), nn.ReLU(), head(16, large=True)
    )
    return net


@odd("the legacy weight norm sets plain tensors by a hook: they can't be copied once they have a history")
def legacy_weight_normed_large() -> nn.Module:
    net = conv_net(large=True)
    nn.utils.weight_norm(net[0])
    nn.utils.weight_norm(net[4][3])
    return net


@odd("the legacy spectral norm", centred=True)
def legacy_spectral_normed() -> nn.Module:
    net = conv_net()
    nn.utils.spectral_norm(net[0])
    return net


@odd("int8 layers have no gradient", has_gradients=False, trains=False)
def quantised_dynamically() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(conv_net(), {nn.Linear}, torch.qint8)


@odd("quantisation-aware: fake quantisers have straight-through gradients and observers")
def fake_quantised_large() -> nn.Module:
    quantise = torch.ao.quantization.FakeQuantize(
        torch.ao.quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=31, dtype=torch.quint8
    )
    quantise(torch.rand(64, 3, 8, 8))
    quantise.disable_observer()
    return nn.Sequential(quantise, conv_net(large=True))


@odd("one layer stands in two places", centred=True)
def shared_layer_large() -> nn.Module:
    net = conv_net(large=True)
    again = nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(net[0], net[1], again, nn.ReLU(), again, nn.Tanh(), net[3], net[4])


@odd("one weight is two layers'", centred=True)
def tied_weights_large() -> nn.Module:
    net = conv_net(large=True)
    twin = nn.Linear(1024, 1024)
    twin.weight = net[4][3].weight
    net[4].insert(4, twin)
    return net


@odd("most parameters are frozen: their flags must stay")
def frozen_body() -> nn.Module:
    net = conv_net()
    net[:4].requires_grad_(False)
    return net


@odd("forward hooks change what layers return: tracing loses them", centred=True)
def forward_hooks_large() -> nn.Module:
    net = conv_net(large=True)
    net[2].register_forward_hook(lambda module, args, out: out * torch.linspace(-1, 1, 8)[:, None, None])
    net[4][1].register_forward_pre_hook(lambda module, args: (args[0].flip(1),))
    return net


@odd("a hook of backward changes gradients")
def backward_hook_large() -> nn.Module:
    net = conv_net(large=True)
    net[2].register_full_backward_hook(lambda module, to_input, to_output: (2 * to_input[0],))
    return net


@odd("a hook of the whole module returns a part of what it computed")
def hook_unpacks() -> nn.Module:
    module = Written(lambda m, x: (m.net(x), "features"), net=conv_net())
    module.register_forward_hook(lambda module, args, out: out[0])
    return module


def _each(m: Any, x: Tensor) -> Tensor:
    return torch.vmap(lambda image: m.net(image[None])[0])(x)


@odd("vmap over examples")
def mapped_over_examples_large() -> nn.Module:
    return Written(_each, net=nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), head(288, large=True)))


@odd("a functional call with other weights")
def functional_call_large() -> nn.Module:
    return Written(
        lambda m, x: torch.func.functional_call(m.net, {"0.weight": m.net[0].weight * 1.5}, (x,)),
        net=conv_net(large=True),
    )


@odd("modules that are all equal, and hash alike", centred=True)
def alike_modules_large() -> nn.Module:
    class Alike(nn.Conv2d):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Alike)

        def __hash__(self) -> int:
            return 1

    net = conv_net(large=True)
    first, second = Alike(3, 8, 3, padding=1), Alike(8, 8, 3, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, *net[1:])


class Sized(nn.Module):
    """Empty by its length, hence false; its weights are behind a property."""

    def __init__(self) -> None:
        super().__init__()
        self._net = conv_net()

    def __len__(self) -> int:
        return 0

    @property
    def net(self) -> nn.Module:
        return self._net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@odd("a module with a length of 0 is false")
def false_module() -> nn.Module:
    return Sized()


@odd("a lock can't be copied")
def holds_a_lock_large() -> nn.Module:
    return Written(lambda m, x: m.net(x), net=conv_net(large=True), lock=threading.Lock())


@odd("a generator can't be copied by older torch")
def holds_a_generator() -> nn.Module:
    return Written(lambda m, x: m.net(x), net=conv_net(), generator=torch.Generator().manual_seed(0))


class Marked(Tensor):
    """A subclass of Tensor."""


@odd("logits are a subclass of Tensor")
def returns_a_subclass() -> nn.Module:
    return Written(lambda m, x: m.net(x).as_subclass(Marked), net=conv_net())


def _noisy(m: Any, x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return m.net(x + 0.02 * torch.randn(x.shape[1:], generator=generator))


@odd("noise from a seed of its own: tracing freezes it")
def seeded_noise_large() -> nn.Module:
    return Written(_noisy, net=conv_net(large=True))


@odd("noise in eval mode, from the global state", is_random=True)
def noise_in_eval_mode_large() -> nn.Module:
    return Written(lambda m, x: m.net(x + 0.02 * torch.randn_like(x)), net=conv_net(large=True))


@odd("dropout stays on in eval mode", is_random=True)
def dropout_in_eval_mode() -> nn.Module:
    return Written(lambda m, x: m.net(nn.functional.dropout(x, 0.05, training=True)), net=conv_net())


def _counting(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.net(x)


@odd("counts its calls in a buffer")
def counts_its_calls_large() -> nn.Module:
    module = Written(_counting, net=conv_net(large=True))
    module.register_buffer("calls", torch.zeros((), dtype=torch.long))
    return module


@odd("logits are so small that float16 and losses lose them")
def tiny_logits_large() -> nn.Module:
    return Written(lambda m, x: 1e-2 * m.net(x), net=conv_net(large=True))


@odd("logits are so large that the softmax is saturated")
def huge_logits() -> nn.Module:
    return Written(lambda m, x: 1e3 * m.net(x), net=conv_net())


@odd("two classes have the same logit always: a tie is no success by itself", may_mask=True)
def tied_logits() -> nn.Module:
    return Written(lambda m, x: m.net(x)[:, [0, 0, 1, 2]], net=conv_net())


@odd("logits are log-probabilities")
def log_probabilities_large() -> nn.Module:
    return Written(lambda m, x: m.net(x).log_softmax(1), net=conv_net(large=True))


@odd("logits are a view of wider memory")
def logits_are_a_view_large() -> nn.Module:
    return Written(lambda m, x: m.net(x)[:, 1::2], net=conv_net(n_classes=8, large=True))


@odd("logits lie column by column")
def transposed_logits() -> nn.Module:
    return Written(lambda m, x: m.net(x).t().contiguous().t(), net=conv_net())


@odd("wrapped for many devices")
def data_parallel_large() -> nn.Module:
    return nn.DataParallel(conv_net(large=True))


@odd("weights in a plain list: parameters() doesn't know them", trains=False)
def unregistered_weights() -> nn.Module:
    return Written(lambda m, x: m.nets[0](x), nets=[conv_net().requires_grad_(False)])


@odd("a forward with options beside the input")
def further_arguments_large() -> nn.Module:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net(large=True)

        def forward(self, x: Tensor, scale: float = 1.0, *, features: bool = False) -> Any:
            logits = scale * self.net(x)
            return (logits, x) if features else logits

    return Optional()


@odd("batch norm without running statistics belongs to the batch", is_random=True, centred=True)
def batch_statistics() -> nn.Module:
    net = conv_net()
    net[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return net


@odd("a batch norm that stays in training mode: eval() doesn't reach it", is_random=True)
def stays_in_training() -> nn.Module:
    class Stubborn(nn.Dropout):
        def train(self, mode: bool = True) -> nn.Module:
            return super().train(True)

    net = conv_net()
    return nn.Sequential(net[:3], Stubborn(0.05), net[3:])
