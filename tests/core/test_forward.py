"""Micro-batches through a network: bounded, filled up, and out of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise._core.filling import filled_size
from art_classwise._core.forward import (
    MicroBatches,
    computing_at_most,
    counted,
    in_passes,
    is_out_of_memory,
    usual_batch_size,
)
from art_classwise._core.state import preserved_random_state


def logits_and_gradients(module, x):
    x = x.clone().requires_grad_()
    logits = module(x)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    return logits.detach(), gradient


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.Tanh(), nn.Linear(40, 5))


def depthwise():
    """Below 16 rows the kernels are others."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 32, 3, groups=32, padding=1),
        nn.GroupNorm(4, 32),
        nn.Conv2d(32, 48, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 5),
    )


def transposed():
    """An odd number of rows gives other bits, at 17, say."""
    return nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.Flatten(), nn.Linear(144, 5))


def dilated():
    """With two threads, 20 rows give other bits than 24."""
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, dilation=2), nn.Tanh(), nn.Conv2d(20, 30, (1, 3)), nn.Conv2d(30, 16, (3, 1)), nn.Flatten(),
        nn.Linear(64, 5),
    )  # fmt: skip


def attention():
    layer = nn.TransformerEncoderLayer(64, 4, 32, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Flatten(2), layer, nn.Flatten(), nn.Linear(192, 5))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("make", [dense, depthwise, transposed, dilated, attention])
def test_an_example_has_the_same_bits_in_any_batch(make, threads):
    """On a CPU: alone, among others, at the batch's end, and whatever the number of threads."""
    torch.manual_seed(0)
    network, x = make().eval().requires_grad_(False), torch.rand(100, 3, 8, 8)
    torch.set_num_threads(threads)
    try:
        expected = logits_and_gradients(MicroBatches(network), x)
        for size in (1, 7, 17, 20, 33, 81, *([1] * 4), *([7] * 4), *([10] * 4), 13):  # fewer rows are tried after some
            found = logits_and_gradients(MicroBatches(network), x[-size:])
            assert all(torch.equal(f, e[-size:]) for f, e in zip(found, expected, strict=True)), size
    finally:
        torch.set_num_threads(1)


def test_few_rows_are_filled_up_and_many_hardly():
    sizes = {n: filled_size(n) for n in (1, 4, 16, 17, 60, 81, 96, 128, 130, 500, 512)}
    assert sizes == {1: 16, 4: 16, 16: 16, 17: 20, 60: 60, 81: 88, 96: 96, 128: 128, 130: 144, 500: 512, 512: 512}
    alone = acw.build("digits-cnn", (1, 8, 8), 10, seed=0).eval().requires_grad_(False)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    filled, unfilled = (logits_and_gradients(m, x[:1])[1] for m in (MicroBatches(alone), alone))
    assert torch.equal(filled, logits_and_gradients(alone, x)[1][:1])
    assert not torch.equal(unfilled, filled)  # else there would be nothing to fill up for


def rows_of_passes(network, x, times=8):
    """With how many rows the network itself computes x, when it is asked again and again."""
    seen, module = [], MicroBatches(network)
    hook = network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    for _ in range(times):
        seen.clear()
        logits_and_gradients(module, x)
    hook.remove()
    return seen[-1]


class Doubles(nn.Module):
    def forward(self, x):
        return 2 * x.flatten(1)[:, :5]


def test_networks_that_allow_it_compute_few_examples_with_few_rows():
    x, network = torch.rand(40, 3, 8, 8), Doubles().eval()
    assert [rows_of_passes(network, x[:n]) for n in (1, 4, 5, 12, 13, 16, 17)] == [4, 4, 8, 12, 16, 16, 20]


class Noisy(nn.Module):
    """Draws random numbers in eval mode, too."""

    def forward(self, x):
        return x.flatten(1)[:, :5] + torch.randn(len(x), 5) + np.random.rand()


class CountsRows(nn.Module):
    """What it returns depends on the number of rows, as batch norm's does while training."""

    def forward(self, x):
        return x.flatten(1) * len(x)


class TakesSixteen(nn.Module):
    def forward(self, x):
        return x.view(16, -1)[:, :5]


@pytest.mark.parametrize("make", [Noisy, CountsRows, TakesSixteen, Doubles])
def test_other_networks_stay_filled_up_and_notice_nothing(make):
    network, x = make().train(make is Doubles), torch.rand(3, 3, 8, 8)
    with preserved_random_state(0):
        expected = [network(torch.cat([x, x[:1].expand(13, 3, 8, 8)]))[:3] for _ in range(5)]
    module = MicroBatches(network)
    with preserved_random_state(0):
        found = [module(x) for _ in range(5)]
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
    assert rows_of_passes(network, x.requires_grad_()) == 16


class CountsRowsIf(nn.Module):
    """A network whose kernels depend on the number of rows under some conditions."""

    def __init__(self, condition):
        super().__init__()
        self.condition, self.stride, self.slope = condition, (1, 1), None
        self.part = nn.Identity()
        self.weight, self.seen = nn.Parameter(torch.rand(2, 3, 2, 2)), []

    def forward(self, x):
        self.seen.append(len(x))
        return Doubles()(x) * (len(x) if self.condition(self) else 1)

    def rows(self, x):
        """With how many rows it computes x at last; without a hook, which would make another network of it."""
        for _ in range(8):
            logits_and_gradients(MicroBatches(self), x)
        return self.seen[-1]


LATER = {
    "setting": (lambda n: n.stride == (2, 2), lambda n: setattr(n, "stride", (2, 2))),
    "layer": (lambda n: isinstance(n.part, nn.Dropout), lambda n: setattr(n, "part", nn.Dropout().eval())),
    "setting that was absent": (lambda n: n.slope == 0.1, lambda n: setattr(n, "slope", 0.1)),
    "layout": (lambda n: not n.weight.is_contiguous(), lambda n: n.to(memory_format=torch.channels_last)),
    "threads": (lambda _: torch.get_num_threads() == 2, lambda _: torch.set_num_threads(2)),
    "autocast": (
        lambda _: torch.get_autocast_dtype("cpu") == torch.float16,
        lambda _: torch.set_autocast_dtype("cpu", torch.float16),
    ),
    "determinism": (
        lambda _: torch.are_deterministic_algorithms_enabled(),
        lambda _: torch.use_deterministic_algorithms(True),
    ),
    "precision of products": (
        lambda _: torch.get_float32_matmul_precision() == "medium",
        lambda _: torch.set_float32_matmul_precision("medium"),
    ),
}


@pytest.mark.parametrize("later", LATER)
def test_a_network_is_tried_anew_where_kernels_may_be_others(later):
    condition, change = LATER[later]
    network, x = CountsRowsIf(condition).eval(), torch.rand(4, 3, 8, 8)
    products, dtype = torch.get_float32_matmul_precision(), torch.get_autocast_dtype("cpu")
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=later == "autocast"):
            assert network.rows(x) == 4
            change(network)
            assert network.rows(x) == 16
    finally:
        torch.set_num_threads(1)
        torch.set_autocast_dtype("cpu", dtype)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(products)


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "conv"), reason="torch has the old way only")
def test_a_network_is_tried_anew_in_another_precision_of_convolutions():
    network = CountsRowsIf(lambda _: torch.backends.mkldnn.conv.fp32_precision == "bf16").eval()
    x, before = torch.rand(4, 3, 8, 8), torch.backends.mkldnn.conv.fp32_precision
    try:
        assert network.rows(x) == 4
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        assert network.rows(x) == 16
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before


@pytest.mark.parametrize("most", [1, 5, 16, 49, 50])
def test_a_bound_changes_nothing_but_memory(network, most):
    network.requires_grad_(False)
    x = torch.rand(50, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    expected = logits_and_gradients(MicroBatches(network), x)
    seen.clear()
    found = logits_and_gradients(MicroBatches(network, most), x)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
    assert max(seen) == max(16, -(-most // 4) * 4)
    with torch.no_grad():
        seen.clear()
        assert torch.equal(MicroBatches(network, most)(x), expected[0])
    assert len(seen) == -(-50 // most) + 2 * (most < 12)  # each pass is computed once; two try fewer rows


def test_parts_are_computed_one_after_another_and_once():
    rows, other, sizes = torch.arange(7.0), torch.arange(14.0).view(7, 2), []

    def compute(a, b):
        sizes.append((len(a), len(b)))
        return a[:, None] * b, a + 1

    for most, expected in ((None, [7]), (7, [7]), (3, [3, 3, 1])):
        sizes.clear()
        product, more = in_passes(compute, most, rows, other)
        assert sizes == [(n, n) for n in expected]
        assert torch.equal(product, rows[:, None] * other)
        assert torch.equal(more, rows + 1)


def test_what_is_no_tensor_of_logits_is_passed_on():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(0, keepdim=True)

    x = torch.rand(5, 3)
    assert isinstance(MicroBatches(Pair())(x), tuple)
    assert isinstance(MicroBatches(Pair(), 2)(x), tuple)
    assert MicroBatches(Mean())(x).shape == (1, 3)
    assert MicroBatches(nn.Linear(3, 2))(torch.empty(0, 3)).shape == (0, 2)


def test_usual_batch_sizes_are_powers_of_two_by_the_images():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    sizes = [usual_batch_size(cpu, s) for s in ((1, 8, 8), (3, 32, 32), (3, 96, 96), (3, 224, 224))]
    assert sizes == [512, 256, 32, 16]
    assert [usual_batch_size(gpu, s) for s in ((3, 32, 32), (3, 224, 224))] == [512, 256]


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 8, 16, 64])
def test_of_large_images_no_pass_has_rows_that_only_fill_it_up(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    size = usual_batch_size(torch.device("cpu"), (3, 224, 224))
    assert filled_size(size) == size
    assert 16 <= size <= 32


def test_batch_sizes_of_attacks_are_bounded_and_put_back(classifier):
    within = acw.TransferAttack(classifier, acw.PGD(classifier, batch_size=64, verbose=False))
    whole = acw.AutoAttack(classifier, batch_size=100)
    small = acw.PGD(classifier, batch_size=4)
    with computing_at_most(within, 8), computing_at_most(whole, 8), computing_at_most(small, 8):
        assert within.attack.batch_size == 8
        assert (whole.batch_size, whole.micro_batch_size) == (100, 8)  # random numbers belong to its batches
        assert small.batch_size == 4
    assert (within.attack.batch_size, whole.micro_batch_size) == (64, None)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_is_out(error, is_it):
    assert is_out_of_memory(error) is is_it


@pytest.mark.parametrize(
    ("member", "norm"), [(m, np.inf) for m in ("apgd-ce", "apgd-t", "fab-t", "fab", "square")] + [("fab", 1)]
)
def test_autoattack_finds_the_same_in_small_passes(classifier, images, own, asked, member, norm):
    """And asks for nothing twice: as often for each example, at most so many at once."""
    eps, found, passes = 0.05 if norm == np.inf else 2.0, [], []
    for most in (None, 3):
        options = {"attacks": member, "n_iter": 6, "n_queries": 20, "micro_batch_size": most, "verbose": False}
        asked.clear()
        with counted(classifier) as counts:
            found.append(acw.AutoAttack(classifier, norm, eps, **options).generate(images, own))
        passes.append((sum(asked), counts.backwards > 0))
    np.testing.assert_array_equal(*found)
    assert (found[0] != images).any()
    assert passes[0] == passes[1]
    if member != "square":
        assert max(asked) <= 16
