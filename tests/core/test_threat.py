from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from art_classwise import InputError, ThreatModel
from art_classwise._core.random_numbers import ExampleUniform


def uniform(generator):
    return lambda *shape: torch.rand(shape, generator=generator)


LOW, HIGH = torch.tensor(0.0), torch.tensor(1.0)


@pytest.mark.parametrize(
    ("text", "norm", "eps"),
    [
        ("Linf:8/255", "Linf", 8 / 255),
        ("linf:0.1", "Linf", 0.1),
        ("L2:0.5", "L2", 0.5),
        ("l2:128/255", "L2", 128 / 255),
    ],
)
def test_parse_reads_norm_and_radius(text, norm, eps):
    assert ThreatModel.parse(text) == ThreatModel(norm, eps)


@pytest.mark.parametrize("text", ["Linf:8/255", "Linf:0.1", "L2:0.5", "L2:128/255", "Linf:0.3"])
def test_text_and_threat_model_are_inverse(text):
    assert str(ThreatModel.parse(text)) == text
    assert ThreatModel.parse(str(ThreatModel.parse(text))) == ThreatModel.parse(text)


def test_whole_levels_of_grey_are_read_back():
    for levels in range(1, 600):
        threat = ThreatModel("Linf", levels / 255)
        assert ThreatModel.parse(str(threat)) == threat
    assert str(ThreatModel("Linf", 12 / 255)) == "Linf:12/255"
    assert [str(ThreatModel("L2", eps)) for eps in (0.2, 0.6, 1.0, 2.0)] == ["L2:0.2", "L2:0.6", "L2:1", "L2:2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Linf", "norm:radius"),
        ("Lnf:0.1", "Did you mean Linf"),
        ("L2:", "number or a fraction"),
        ("L2:a/b", "number or a fraction"),
        ("L2:1/0", "number or a fraction"),
        ("Linf:0", "above 0"),
        ("Linf:-8/255", "above 0"),
        ("Linf:nan", "finite"),
        ("Linf:inf", "finite"),
    ],
)
def test_parse_refuses(text, says):
    with pytest.raises(InputError, match=says):
        ThreatModel.parse(text)


def test_radius_in_other_units_is_refused_with_what_was_meant():
    with pytest.raises(InputError, match='did you mean "Linf:8/255"'):
        ThreatModel("Linf", 8).check_radius(0, 1, 3072)
    with pytest.raises(InputError, match=r"below 55\.4256"):
        ThreatModel("L2", 128).check_radius(0, 1, 3072)
    ThreatModel("Linf", 8).check_radius(0, 255, 3072)
    ThreatModel("L2", 3).check_radius(0, 1, 3072)


@pytest.mark.parametrize(("norm", "name"), [(np.inf, "Linf"), ("inf", "Linf"), (2, "L2"), (2.0, "L2")])
def test_reads_arts_norms(norm, name):
    assert ThreatModel.from_art(norm, 0.1) == ThreatModel(name, 0.1)


@pytest.mark.parametrize("norm", [0, 3, "two", float("nan")])
def test_refuses_other_norms(norm):
    with pytest.raises(InputError, match=r"must be np\.inf"):
        ThreatModel.from_art(norm, 0.1)


@settings(deadline=None, max_examples=100)
@given(
    norm=st.sampled_from(["Linf", "L2"]),
    eps=st.floats(1e-3, 3),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_projection_and_random_start_lie_in_ball_and_box(norm, eps, shape, seed):
    threat, generator = ThreatModel(norm, eps), torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator)
    far = x + 5 * torch.randn(shape, generator=generator)
    for point in (
        threat.project(far, x, LOW, HIGH),
        threat.project(threat.random_start(x, uniform(generator)), x, LOW, HIGH),
    ):
        assert point.min() >= 0
        assert point.max() <= 1
        assert (threat.size(point - x) <= eps * (1 + 1e-5) + 1e-6).all()
    assert (threat.size(threat.random_start(x, uniform(generator)) - x) <= eps * (1 + 1e-5) + 1e-6).all()


def test_projection_keeps_what_is_inside():
    x = torch.full((2, 4), 0.5)
    inside = x + 0.01
    for norm in ("Linf", "L2"):
        assert torch.allclose(ThreatModel(norm, 0.1).project(inside, x, LOW, HIGH), inside)


def test_steepest_is_the_best_step_of_unit_norm():
    """No other direction of unit norm has a larger inner product with the gradient (brute force)."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(3, 5, generator=generator)
    for norm in ("Linf", "L2"):
        threat = ThreatModel(norm, 1.0)
        step = threat.steepest(gradient)
        assert torch.allclose(threat.size(step), torch.ones(3))
        others = threat.random_start(torch.zeros(20_000, 5), uniform(generator))
        best = (step * gradient).sum(1)
        assert (best[:, None] >= gradient @ others.T - 1e-5).all()


def test_steepest_of_tiny_and_zero_gradients():
    gradient = torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])
    assert torch.allclose(ThreatModel("L2", 1.0).steepest(gradient), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_a_random_start_depends_on_no_place_in_the_batch():
    """Of 48 features, whose root of a float32 a CPU rounds otherwise at a batch's end."""
    x = torch.rand(211, 48, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(len(x))
    for norm in ("Linf", "L2", "L1"):
        threat = ThreatModel(norm, 1.0)
        whole = threat.random_start(x, ExampleUniform(0, 0, ids))
        for size in (1, 7, 16):
            parts = zip(x.split(size), ids.split(size), strict=True)
            found = torch.cat([threat.random_start(some, ExampleUniform(0, 0, own)) for some, own in parts])
            assert torch.equal(found, whole)


def test_random_start_is_uniform_in_the_ball():
    """Linf: each coordinate uniform. L2 in d dimensions: P(radius <= r eps) = r^d."""
    generator = torch.Generator().manual_seed(0)
    zero = torch.zeros(20_000, 3)
    coordinates = ThreatModel("Linf", 2.0).random_start(zero, uniform(generator))
    assert coordinates.mean().abs() < 0.03
    assert coordinates.std() == pytest.approx(4 / 12**0.5, rel=0.02)
    radius = ThreatModel("L2", 2.0).size(ThreatModel("L2", 2.0).random_start(zero, uniform(generator)))
    for r in (0.3, 0.6, 0.9):
        assert (radius <= 2 * r).float().mean() == pytest.approx(r**3, abs=0.015)
