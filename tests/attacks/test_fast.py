"""The copy made for searching computes what the network computes; and float32 to the last digit, for verdicts."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.art_interface import Border
from art_classwise._core.state import float32
from art_classwise._core.structure import PerNetwork
from art_classwise.attacks import fast_copy
from art_classwise.attacks.fast_copy import FastCopy


@pytest.fixture
def every_network_is_large(monkeypatch):
    """Copies are made of small networks too."""
    monkeypatch.setattr(fast_copy, "_LARGE", 0)


def fast_module(module, x, precision="auto", **options):
    """What is searched on in place of a module: a copy, or the module itself."""
    network = FastCopy(module, x, precision, **options).of(module)
    return module if network is module else Border(network)


def trained(module):
    """In eval mode, with batch norms as training leaves them: away from the identity."""
    generator = torch.Generator().manual_seed(3)
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and norm.running_mean is not None:
            norm.running_mean.copy_(0.3 * torch.randn(norm.running_mean.shape, generator=generator))
            norm.running_var.copy_(0.3 + torch.rand(norm.running_var.shape, generator=generator))
            if norm.affine:
                norm.weight.data = 0.5 + torch.rand(norm.weight.shape, generator=generator)
                norm.bias.data = 0.3 * torch.randn(norm.bias.shape, generator=generator)
    return module.eval()


def logits_and_gradient(module, x):
    x = x.clone().requires_grad_()
    logits = module(x)
    (gradient,) = torch.autograd.grad((logits * torch.arange(logits.shape[1])).sum(), x)
    return logits.detach(), gradient


def assert_same(got, expected, rtol=1e-4):
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() <= rtol * expected.abs().max()


def assert_copy_is_right(module, x, **options):
    """The copy gives the network's logits and gradients, on other images than those it was made with."""
    copied = fast_module(module, x, "fp32", **options)
    others = torch.rand(x.shape, generator=torch.Generator().manual_seed(9))
    for got, expected in zip(logits_and_gradient(copied, others), logits_and_gradient(module, others), strict=True):
        assert_same(got, expected)
    return copied


def batch_norms(module):
    return sum(isinstance(m, fast_copy._BATCH_NORMS) for m in module.modules())


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


IMAGES, IMAGES6 = rand(4, 3, 16, 16), rand(4, 3, 6, 6)


@pytest.mark.parametrize(("name", "left"), [("resnet18", 0), ("preactresnet18", 9)])
def test_folding_keeps_the_logits_of_residual_networks(name, left):
    """A ResNet-18 has 20 batch norms, each after a convolution; of the 17 of a pre-activation one, 8 follow one."""
    module = trained(acw.build(name, (3, 32, 32), 5, seed=0))
    copied = assert_copy_is_right(module, rand(2, 3, 32, 32))
    assert batch_norms(module) > left
    assert batch_norms(copied) == left


class Own(nn.Module):
    """A network that is written out in its forward."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)
        self.last = nn.Linear(3, 4)

    def forward(self, x):
        return self.last(self._forward(self, x).relu().mean((2, 3)))


def conv(**options):
    return nn.Conv2d(3, 3, 3, padding=1, **options)


def norm(**options):
    return nn.BatchNorm2d(3, **options)


def tied(self, x):
    return self.n(self.c(x)) + nn.functional.conv2d(x, self.c.weight, padding=1)


class Shifted(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


FOLDED = {
    "one after the other": (lambda m, x: m.n(m.c(x)), {"c": conv(), "n": norm()}),
    "no bias, no affine": (lambda m, x: m.n(m.c(x)), {"c": conv(bias=False), "n": norm(affine=False)}),
    "padded by reflection": (
        lambda m, x: m.n(m.c(x)),
        {"c": conv(padding_mode="reflect", groups=3), "n": norm(eps=0.1)},
    ),
}
KEPT = {
    "convolution shared by two norms": (
        lambda m, x: m.n(m.c(x)) - m.o(m.c(x)),
        {"c": conv(), "n": norm(), "o": norm()},
    ),
    "norm used twice": (lambda m, x: m.n(m.d(m.n(m.c(x)))), {"c": conv(), "d": conv(), "n": norm()}),
    "output of the convolution used twice": (lambda m, x: (y := m.c(x)) + m.n(y), {"c": conv(), "n": norm()}),
    "norm before the convolution": (lambda m, x: m.c(m.n(x)), {"c": conv(), "n": norm()}),
    "activation in between": (lambda m, x: m.n(m.c(x).relu()), {"c": conv(), "n": norm()}),
    "transposed convolution": (
        lambda m, x: m.n(m.c(x)),
        {"c": nn.ConvTranspose2d(3, 3, 3, padding=1), "n": norm()},
    ),
    "a subclass of the norm": (lambda m, x: m.n(m.c(x)), {"c": conv(), "n": Shifted(3)}),
    "weights used elsewhere": (tied, {"c": conv(), "n": norm()}),
    "control flow": (lambda m, x: m.n(m.c(x)) if x.sum() > 0 else x, {"c": conv(), "n": norm()}),
    "norm of the batch's own statistics": (
        lambda m, x: m.n(m.c(x)),
        {"c": conv(), "n": norm(track_running_stats=False)},
    ),
    "parametrised weights": (
        lambda m, x: m.n(m.c(x)),
        {"c": nn.utils.parametrizations.weight_norm(conv()), "n": norm()},
    ),
}


@pytest.mark.usefixtures("every_network_is_large")
@pytest.mark.parametrize("name", [*FOLDED, *KEPT])
def test_batch_norms_are_folded_where_that_is_right_and_only_there(name):
    forward, parts = copy.deepcopy({**FOLDED, **KEPT}[name])
    module = trained(Own(forward, **parts))
    copied = assert_copy_is_right(module, IMAGES)
    assert copied is not module
    assert batch_norms(copied) == (0 if name in FOLDED else batch_norms(module))


@pytest.mark.usefixtures("every_network_is_large")
def test_convolutions_of_any_dimension_are_folded():
    for d, (convolution, batch_norm) in enumerate(
        [(nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)], start=1
    ):
        parts = [
            convolution(2, 3, 2),
            batch_norm(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3 * 3**d, 4),
            nn.BatchNorm1d(4),
        ]
        copied = assert_copy_is_right(trained(nn.Sequential(*parts)), rand(2, 2, *[4] * d))
        assert batch_norms(copied) == 1  # the one after the linear layer


@pytest.mark.usefixtures("every_network_is_large")
def test_networks_that_draw_random_numbers_go_on_drawing():
    """Tracing could freeze one draw into the copy."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(conv(), norm(), nn.Flatten(), nn.Linear(768, 4))

        def forward(self, x):
            return self.body(x + torch.randn(1, 3, 1, 1))

    module = trained(Noisy())
    copied = fast_module(module, IMAGES, "fp32")
    assert (copied(IMAGES) - copied(IMAGES)).abs().max() > 1e-3
    for seed in range(3):
        torch.manual_seed(seed)
        expected = module(IMAGES)
        torch.manual_seed(seed)
        assert_same(copied(IMAGES), expected)


@pytest.mark.usefixtures("every_network_is_large")
def test_hooks_are_kept(network):
    network[1].register_forward_hook(lambda module, args, out: 2 * out)
    network[5].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    assert_copy_is_right(trained(network), rand(2, 3, 6, 6))


@pytest.mark.usefixtures("every_network_is_large")
def test_hooks_that_only_look_on_are_kept(network):
    """Tracing would lose that of a container, and no logits would tell."""
    module, seen = nn.Sequential(trained(network)), []
    module[0].register_forward_hook(lambda module, args, out: seen.append("called"))
    copied = assert_copy_is_right(module, rand(2, 3, 6, 6))
    seen.clear()
    copied(rand(2, 3, 6, 6))
    assert seen == ["called"]


@pytest.mark.usefixtures("every_network_is_large")
def test_a_network_that_cannot_be_copied_is_searched_as_it_is(network):
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network

        def forward(self, x):
            return self.body(x)

        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle '_thread.lock' object")

    locked = Locked()
    assert assert_copy_is_right(locked, rand(2, 3, 6, 6)) is locked


@pytest.mark.usefixtures("every_network_is_large")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_that_keeps_what_it_was_given_is_not_left_with_what_tracing_gave_it(precision):
    """As the ODE block of RobustBench's Kang2021Stable does: it would go on with a value that only tracing can use."""

    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.times = torch.tensor([0.0, 5.0])

        def forward(self, x):
            self.times = self.times.type_as(x)
            if not isinstance(self.times, torch.Tensor):
                raise AssertionError("t must be a torch.Tensor")
            return x * self.times[1]

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Keeping(), nn.Flatten(), nn.Linear(64, 5)).eval()
    x = torch.rand(4, 3, 6, 6)
    torch.testing.assert_close(fast_module(module, x, precision)(x), module(x), rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("every_network_is_large")
def test_networks_without_batch_norms_or_convolutions():
    assert_copy_is_right(acw.build("digits-cnn", (1, 8, 8), 10, seed=0), rand(2, 1, 8, 8))
    assert_copy_is_right(nn.Sequential(nn.Linear(5, 3)), rand(2, 5))


def test_small_networks_are_returned_as_they_are(network):
    x = rand(2, 3, 6, 6)
    assert fast_module(network, x, "auto") is network
    assert fast_module(network, x, "fp32") is network
    assert fast_module(network, x, "bf16") is not network


def test_auto_is_bf16_for_large_networks_where_the_hardware_multiplies_it(monkeypatch):
    module = nn.Sequential(nn.Flatten(), nn.Linear(768, 1400))  # more than a million weights
    for multiplies in (True, False):
        monkeypatch.setattr(fast_copy, "multiplies_bfloat16", lambda device, value=multiplies: value)
        for precision, bf16 in (("auto", multiplies), ("bf16", True), ("fp32", False)):
            copied = fast_module(module, IMAGES, precision)
            assert {p.dtype for p in copied.parameters()} == {torch.bfloat16 if bf16 else torch.float32}


@pytest.mark.parametrize("name", ["resnet18", "digits-cnn"])
def test_bf16_is_close_and_not_float32_in_disguise(name):
    shape = (1, 8, 8) if name == "digits-cnn" else (3, 32, 32)
    module, x = trained(acw.build(name, shape, 5, seed=0)), rand(4, *shape)
    got, gradient = logits_and_gradient(fast_module(module, x, "bf16"), x)
    expected, exact_gradient = logits_and_gradient(module, x)
    assert_same(got, expected, rtol=0.05)
    assert (got - expected).abs().max() > 1e-5 * expected.abs().max()
    alike = torch.cosine_similarity(gradient.flatten(1), exact_gradient.flatten(1))
    assert alike.min() > 0.9
    assert not torch.equal(got, got.bfloat16().float())  # the last layer isn't rounded


@pytest.mark.usefixtures("every_network_is_large")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_itself_is_left_unchanged(network, precision):
    trained(network).train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network[5].weight.grad = gradient = torch.ones_like(network[5].weight)
    modes = [m.training for m in network.modules()]
    state = copy.deepcopy(network.state_dict())
    layout = [p.stride() for p in network.parameters()]
    copied = fast_module(network, rand(2, 3, 6, 6), precision)
    copied(rand(2, 3, 6, 6))
    assert not any(m.training for m in copied.model.module.modules())
    assert not any(p.requires_grad for p in copied.parameters())
    assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(p.data_ptr() for p in network.parameters())
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == [False, *[True] * 5]
    assert network[5].weight.grad is gradient
    assert [p.stride() for p in network.parameters()] == layout
    for name, value in network.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiling_keeps_the_logits(monkeypatch, network, precision):
    compile_, compiled = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda m, **how: compiled.append(m) or compile_(m, backend="eager", **how))
    x = rand(2, 3, 6, 6)
    module = trained(network)
    copied = fast_module(module, x, precision, compile=True)
    assert_same(copied(x).detach(), module(x).detach(), rtol=1e-4 if precision == "fp32" else 0.05)
    assert len(compiled) == 1
    assert batch_norms(copied) == 0


@pytest.mark.parametrize("precision", ["fp16", "", None, 32, torch.bfloat16])
def test_unknown_precisions_are_refused(precision, classifier):
    with pytest.raises(InputError, match='`precision` must be "auto", "fp32" or "bf16"'):
        acw.PGD(classifier, precision=precision)


PLACES = [(torch.backends.cudnn, "conv"), (torch.backends.cudnn, "rnn"), (torch.backends.cuda, "matmul")] + [
    (torch.backends.mkldnn, name) for name in ("conv", "rnn", "matmul")
]


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch says it in the old way")
@pytest.mark.parametrize("error", [False, True])
def test_float32_means_float32_inside_and_what_it_was_after(error):
    places = [getattr(*place) for place in PLACES]
    original = [place.fp32_precision for place in places]
    changed = ["tf32", "tf32", "tf32", "bf16", "bf16", "bf16"]
    try:
        for place, precision in zip(places, changed, strict=True):
            place.fp32_precision = precision
        with torch.autocast("cpu", torch.bfloat16):
            try:
                with float32("cpu"):
                    assert {place.fp32_precision for place in places} == {"ieee"}
                    with float32("cuda", tf32=True):  # which is for CUDA alone
                        assert [place.fp32_precision for place in places] == ["tf32"] * 3 + ["ieee"] * 3
                    with float32("cpu", tf32=True):
                        assert {place.fp32_precision for place in places} == {"ieee"}
                    assert {place.fp32_precision for place in places} == {"ieee"}
                    assert not torch.is_autocast_enabled("cpu")
                    assert (torch.rand(3, 3) @ torch.rand(3, 3)).dtype == torch.float32
                    if error:
                        raise ArithmeticError
            except ArithmeticError:
                assert error
            assert torch.is_autocast_enabled("cpu")
            assert (torch.rand(3, 3) @ torch.rand(3, 3)).dtype == torch.bfloat16
        assert [place.fp32_precision for place in places] == changed
    finally:
        for place, precision in zip(places, original, strict=True):
            place.fp32_precision = precision


def test_float32_keeps_the_old_way_to_say_it_readable():
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("medium", "high", "highest"):
            torch.set_float32_matmul_precision(precision)
            with float32("cpu"):
                assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
                with float32("cuda", tf32=True):
                    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


class ExactHead(nn.Module):
    """Leaves autocast for its last layer, as many networks do."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(128, 4)

    def forward(self, x):
        h = self.body(x).relu().flatten(1)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(h.float())


def test_networks_that_leave_autocast_can_be_searched_in_bf16():
    torch.manual_seed(0)
    network, x = ExactHead().eval(), torch.rand(5, 3, 6, 6)
    fast = fast_module(network, x, "bf16")
    with torch.no_grad():
        assert torch.allclose(fast(x), network(x), atol=0.05)


def moved_on(module, seed=5):
    """Weights and statistics as they are some training later."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                noise = torch.rand(buffer.shape, generator=generator)
                buffer.copy_(0.3 + noise if "var" in name else 0.3 * noise)
    return module


def tied_layers(m, x):
    return m.n(m.c(x)) - m.d(x).tanh()


def tied_to(convolution):
    other = conv()
    other.weight = convolution.weight
    return other


SHARED = {
    "a layer used twice": (lambda m, x: m.n(m.c(m.c(x))), {"c": conv(), "n": norm()}),
    "weights tied to those of a folded layer": (tied_layers, {"c": (c := conv()), "n": norm(), "d": tied_to(c)}),
    "weights tied to those of a folded layer after it": (
        tied_layers,
        {"d": (d := conv()), "c": tied_to(d), "n": norm()},
    ),
    "one layer under two names": (tied_layers, {"c": (e := conv()), "n": norm(), "d": e}),
}
FOLLOWED = {**FOLDED, **KEPT, **SHARED}


@pytest.mark.usefixtures("every_network_is_large")
@pytest.mark.parametrize("sample", ["rand", "zeros"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_copy_follows_its_source(name, sample):
    """Made of a network as training begins, when batch norms are the identity; asked when it has been trained."""
    forward, parts = copy.deepcopy(FOLLOWED[name])
    module = Own(forward, **parts).eval()
    made = FastCopy(module, IMAGES if sample == "rand" else torch.zeros_like(IMAGES), "fp32")
    for seed in range(2):
        moved_on(module, seed)
        got, expected = (logits_and_gradient(m, IMAGES) for m in (made.of(module), module))
        assert_same(got[0], expected[0], rtol=1e-3)
        assert_same(got[1], expected[1], rtol=1e-3)


class Kernels(TorchDispatchMode):
    """Counts the operators that compute, which a GPU would launch kernels for."""

    n = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        self.n += operator._schema.is_mutable or operator.is_view is False
        return made


@pytest.mark.usefixtures("every_network_is_large")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["resnet18", "preactresnet18", "digits-cnn"])
def test_a_copy_that_follows_is_what_a_new_one_would_be(name, precision):
    shape = (1, 8, 8) if name == "digits-cnn" else (3, 32, 32)
    module, x = acw.build(name, shape, 5, seed=0).eval(), rand(2, *shape)
    made = FastCopy(module, x, precision)
    first = made.of(module)(x).detach()
    for source in (trained(module), acw.build(name, shape, 5, seed=1)):  # another one of the same structure
        new = fast_module(source.eval(), x, precision)
        with Kernels() as kernels:
            made.of(source)
        assert kernels.n <= batch_norms(source) - batch_norms(new) + 12  # not some for each tensor
        assert torch.equal(made.of(source)(x), new(x))
        assert batch_norms(source) == 0 or (new(x) - first).abs().max() > 0
        assert {p.dtype for p in made.of(source).parameters()} == {p.dtype for p in new.parameters()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_not_copied_is_searched_as_it_is_now(precision, network):
    """A small network in float32, and one that can't be copied."""

    class Locked(nn.Sequential):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle '_thread.lock' object")

    for module in (Locked(network), network):
        made = FastCopy(module, rand(2, 3, 6, 6), precision)
        moved_on(trained(module))
        expected = logits_and_gradient(module, rand(2, 3, 6, 6))
        for got, of in zip(logits_and_gradient(made.of(module), rand(2, 3, 6, 6)), expected, strict=True):
            assert_same(got.float(), of, rtol=1e-6 if precision == "fp32" else 0.1)


@pytest.mark.usefixtures("every_network_is_large")
def test_following_leaves_the_source_as_it_is(network):
    made = FastCopy(network, rand(2, 3, 6, 6), "fp32")
    trained(network).train()
    state = copy.deepcopy(network.state_dict())
    assert not any(p.requires_grad for p in made.of(network).parameters())
    made.of(network)(rand(2, 3, 6, 6))
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


class Rounded(torch.autograd.Function):
    """A straight-through estimator, which tracing would turn into a plain rounding."""

    @staticmethod
    def forward(ctx, x):
        return (8 * x).round() / 8

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def without_gradient(x):
    with torch.no_grad():
        return x.square()


PURPOSES = {
    "straight through": (lambda m, x: m.n(m.c(Rounded.apply(x))), 1),
    "straight through on one channel": (lambda m, x: m.n(m.c(torch.cat([Rounded.apply(x[:, :1]), x[:, 1:]], 1))), 1),
    "straight through beside": (lambda m, x: m.n(m.c(x)) + Rounded.apply(x), 1),
    "no_grad around a part": (lambda m, x: m.n(m.c(x)) + without_gradient(x), 1),
    "detached": (lambda m, x: m.n(m.c(x)) + x.detach(), 0),
}


@pytest.mark.usefixtures("every_network_is_large")
@pytest.mark.parametrize("head", ["trained", "zero"])
@pytest.mark.parametrize("name", PURPOSES)
def test_what_is_done_to_gradients_on_purpose_is_done_on_the_copy(name, head):
    """Also where a head of zeros, as some trainings begin with, makes all gradients agree at first."""
    forward, left = PURPOSES[name]
    module = Own(forward, c=conv(), n=norm()).eval()
    if head == "zero":
        nn.init.zeros_(module.last.weight)
    made = FastCopy(module, IMAGES, "fp32")
    trained(module)
    nn.init.ones_(module.last.weight[:2])
    got, expected = (logits_and_gradient(m, IMAGES) for m in (Border(made.of(module)), module))
    assert_same(got[0], expected[0], rtol=1e-3)
    assert_same(got[1], expected[1], rtol=1e-3)
    assert batch_norms(made.of(module)) == left


def test_bfloat16_is_left_out_where_gradients_do_not_survive_it(network):
    """Many periods of a sine lie between two numbers of 8 bits."""

    class Steep(nn.Module):
        def forward(self, x):
            return torch.sin(300 * x)

    module = nn.Sequential(network[0], Steep(), *network[4:]).eval()
    assert not FastCopy(module, rand(4, 3, 6, 6), "bf16").bf16
    assert FastCopy(network, rand(4, 3, 6, 6), "bf16").bf16


@pytest.mark.usefixtures("every_network_is_large")
def test_a_copy_is_kept_while_the_network_stays_the_same(network, classifier, monkeypatch):
    made = []
    monkeypatch.setattr(
        fast_copy.copy, "deepcopy", lambda m, *a, deepcopy=copy.deepcopy: made.append(m) or deepcopy(m, *a)
    )
    images = rand(4, 3, 6, 6).numpy()

    def asked():
        before = len(made)
        module = fast_copy.fast_network(classifier, images, "fp32")
        assert_same(Border(module)(IMAGES6).detach(), network(IMAGES6).detach())
        return len(made) - before

    assert asked() > 0
    assert asked() == 0
    moved_on(trained(network))
    assert asked() == 0  # it follows the weights
    network[0].weight.data.mul_(-1)  # which leaves no trace in the version
    assert asked() == 0
    network[2] = nn.ReLU()
    assert asked() > 0
    network[3].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert asked() > 0
    network.eps = 1.0  # it might compute with that
    assert asked() > 0
    network.forward = lambda x: -type(network).forward(network, x)  # which nothing shows but what comes of it
    assert asked() > 0


def test_a_copy_goes_when_its_network_does(monkeypatch):
    monkeypatch.setattr(fast_copy, "_LARGE", 0)
    module = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 4))
    classifier = acw.as_classifier(module, (3, 6, 6), 4, device="cpu")
    monkeypatch.setattr(fast_copy, "_COPIES", PerNetwork())
    fast_copy.fast_network(classifier, rand(2, 3, 6, 6).numpy(), "fp32")
    assert len(fast_copy._COPIES) == 1
    del module, classifier
    gc.collect()
    assert len(fast_copy._COPIES) == 0


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_networks_without_shapes_yet_are_given_some_first():
    """ART takes a lazy network as it is: as_classifier would have asked it once."""
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(5))
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), (3, 6, 6), 5, clip_values=(0.0, 1.0), device_type="cpu"
    )
    x_adv = acw.PGD(classifier, eps=0.1, verbose=False).generate(rand(4, 3, 6, 6).numpy())
    assert x_adv.shape == (4, 3, 6, 6)
