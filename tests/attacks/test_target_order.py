"""MALT's order of target classes, beside a loop over examples and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from art_classwise import AutoAttack, ClassWiseAttack, InputError, as_classifier
from art_classwise.attacks import ladder, target_order
from art_classwise.attacks._apgd import APGD
from art_classwise.attacks._autoattack_members import FABAttack_PT
from art_classwise.attacks.target_order import malt_order
from art_classwise.audit.provenance import fingerprint, parameters

DUAL = {"Linf": 1, "L2": 2, "L1": np.inf}


def literally(network, x, y, norm):
    """Melamed et al. 2024: of each example the classes by (z_y - z_j) / ||grad(z_y - z_j)||."""
    order = []
    for one, label in zip(x, y, strict=True):
        value = {}
        for j in set(range(4)) - {int(label)}:
            at = one[None].clone().requires_grad_()
            z = network(at)[0]
            (slope,) = torch.autograd.grad(z[label] - z[j], at)
            value[j] = float((z[label] - z[j]).detach()) / np.linalg.norm(slope.numpy().ravel(), DUAL[norm])
        order.append(sorted(value, key=value.__getitem__))
    return np.array(order)


@pytest.fixture
def uneven(network):
    """Its classes' gradients differ in size, so that the likeliest class needn't be the nearest."""
    with torch.no_grad():
        network[-1].weight[1] *= 6
        network[-1].weight[2] /= 6
    return network


@pytest.mark.parametrize("norm", DUAL)
def test_it_is_the_papers_order(uneven, images, norm):
    x = torch.from_numpy(images)
    y = uneven(x).argmax(1)
    ours = malt_order(uneven, x, y, norm, lambda z: z)
    expected = literally(uneven, x, y, norm)
    np.testing.assert_array_equal(ours[:, :3].numpy(), expected)
    by_logits = uneven(x).argsort(1, descending=True)[:, 1:].numpy()
    assert (expected[:, 0] != by_logits[:, 0]).mean() > 0.1
    assert sorted(ours[0].tolist()) == [0, 1, 2, 3]
    assert all(p.grad is None for p in uneven.parameters())


def test_only_allowed_targets_and_the_likeliest_are_sorted(uneven, images, monkeypatch):
    x = torch.from_numpy(images)
    y = uneven(x).argmax(1)
    allowed = torch.rand(16, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    allowed = allowed.scatter(1, y[:, None], False)
    ours, expected = malt_order(uneven, x, y, "Linf", lambda z: z, allowed), literally(uneven, x, y, "Linf")
    for row, order, may in zip(ours.tolist(), expected.tolist(), allowed.tolist(), strict=True):
        assert row[: sum(may)] == [j for j in order if may[j]]
    monkeypatch.setattr(target_order, "_MOST", 2)
    z = uneven(x)
    ours = malt_order(uneven, x, y, "Linf", lambda z: z)
    for i, row in enumerate(ours.tolist()):
        likeliest = z[i].argsort(descending=True).tolist()
        likeliest.remove(int(y[i]))
        assert row[:2] == [j for j in expected[i] if j in likeliest[:2]]
        assert row[2] == likeliest[2]


@pytest.fixture
def linear():
    """A linear network of which MALT's first target is the nearest class exactly, and the likeliest often isn't."""
    rng = np.random.default_rng(0)
    layer = nn.Linear(12, 6)
    weight = rng.normal(size=(6, 12)) * np.array([1, 1, 4, 0.3, 2, 1])[:, None]
    layer.weight.data = torch.tensor(weight).float()
    layer.bias.data = torch.tensor(-weight.sum(1) / 2).float()
    x = (0.5 + 0.1 * rng.standard_normal((60, 3, 2, 2))).clip(0, 1).astype(np.float32)
    return as_classifier(nn.Sequential(nn.Flatten(), layer), (3, 2, 2), 6, device="cpu"), x


def test_one_target_in_malts_order_breaks_more_of_a_linear_network(linear):
    classifier, x = linear
    y = classifier.predict(x).argmax(1)
    broken = {}
    for order in ("logits", "malt"):
        attack = ClassWiseAttack(
            classifier, eps=0.03, targets=1, order=order, loss="margin", max_iter=10, verbose=False
        )
        broken[order] = classifier.predict(attack.generate(x, y)).argmax(1) != y
    weight = classifier.model[1].weight.detach().numpy() if isinstance(classifier.model, nn.Sequential) else None
    assert weight is not None
    z = classifier.predict(x)
    exact = np.array(
        [
            min((z[i, k] - z[i, j]) / np.abs(weight[k] - weight[j]).sum() for j in range(6) if j != k)
            for i, k in enumerate(y)
        ]
    )
    np.testing.assert_array_equal(broken["malt"], exact < 0.03)
    assert broken["malt"].sum() > broken["logits"].sum()


@pytest.mark.parametrize("member", ["apgd-t", "fab-t"])
@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_autoattacks_targeted_members_try_its_targets(uneven, images, member, norm, monkeypatch):
    """With every target tried, the same is broken; the first target is MALT's."""
    classifier = as_classifier(uneven, (3, 6, 6), 4, device="cpu")
    y = classifier.predict(images).argmax(1)
    eps = {np.inf: 0.05, 2: 0.4, 1: 3}[norm]
    found = {}
    for order in ("logits", "malt"):
        attack = AutoAttack(classifier, norm, eps, member, n_iter=10, target_order=order, verbose=False)
        x_adv = attack.generate(images, y)
        found[order] = classifier.predict(x_adv).argmax(1) != y
        sizes = np.linalg.norm((x_adv - images).reshape(16, -1).astype(float), norm, axis=1)
        assert sizes.max() <= eps * (1 + 1e-5)
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    assert found["malt"].any()
    assert (found["malt"] != found["logits"]).sum() <= 3


@pytest.mark.parametrize(("micro_batch_size", "most"), [(None, None), (5, None), (5, 1), (None, 2), (None, 50)])
def test_the_first_targets_of_apgd_are_malts(uneven, images, monkeypatch, micro_batch_size, most):
    classifier = as_classifier(uneven, (3, 6, 6), 4, device="cpu")
    y = classifier.predict(images).argmax(1)
    tried = []
    run = APGD._run
    monkeypatch.setattr(
        APGD, "_run", lambda self, x, y, target: tried.append(target.tolist()) or run(self, x, y, target)
    )
    options = {"n_iter": 3, "target_order": "malt", "micro_batch_size": micro_batch_size, "verbose": False}
    options["n_target_classes"] = most
    AutoAttack(classifier, eps=1e-4, attacks="apgd-t", **options).generate(images, y)
    expected = literally(uneven, torch.from_numpy(images), torch.from_numpy(y), "Linf")
    np.testing.assert_array_equal(np.array(tried).T, expected[:, :most])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fab_takes_the_order_once_and_finds_what_pyautoattacks_loop_finds(uneven, images, norm):
    x = torch.from_numpy(images)
    y = uneven(x).argmax(1)
    asked = []

    def order(x, y):
        asked.append(len(x))
        return malt_order(uneven, x, y, norm, lambda z: z)

    options = {"norm": norm, "eps": {"Linf": 0.03, "L2": 0.25}[norm], "n_iter": 5, "targeted": True, "seed": 0}
    ours = FABAttack_PT(uneven, n_target_classes=3, device="cpu", **options)
    ours.order = order
    found = ours.perturb(x, y)
    assert asked == [16]

    class EachTime(FABAttack_PT):
        """Whose targets are looked up for each target again, of those left."""

        def attack_single_run(self, x, y, use_rand_start=False, is_targeted=False):
            return self._walk(x, y, order(x, y)[:, self.target_class - 2])

    expected = EachTime(uneven, n_target_classes=3, device="cpu", **options).perturb(x, y)
    moved = (found != x).flatten(1).any(1)
    assert 0 < moved.sum() < 16
    assert len(asked) == 4
    assert asked[1] > asked[3]  # some had left
    torch.testing.assert_close(found, expected)


def test_fab_leaves_what_is_misclassified_as_it_is(uneven, images):
    x = torch.from_numpy(images)
    wrong = uneven(x).argmin(1)
    attack = FABAttack_PT(uneven, norm="Linf", eps=0.1, n_iter=2, targeted=True, device="cpu")
    attack.order = lambda x, y: pytest.fail("there is no one to attack")
    assert torch.equal(attack.perturb(x, wrong), x)


@pytest.mark.parametrize("order", ["logits", "malt"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_classes_that_may_be_sent_nowhere_stay(classifier, images, order, batch_size):
    targets = np.zeros((4, 4), dtype=bool)
    targets[2, 1] = True
    y = classifier.predict(images).argmax(1)
    attack = ClassWiseAttack(
        classifier, eps=0.5, targets=targets, order=order, batch_size=batch_size, max_iter=5, verbose=False
    )
    moved = (attack.generate(images, y) != images).any(axis=(1, 2, 3))
    assert not moved[y != 2].any()
    assert moved[y == 2].any()
    assert not attack.reach(images[y != 2], y[y != 2]).any()


def test_names_and_fingerprints(classifier):
    made = {
        n: make(classifier) for n, make in ladder(["autoattack", "autoattack-malt", "fab-t-malt"], "Linf:0.1").items()
    }
    assert [one.target_order for one in made.values()] == ["logits", "malt", "malt"]
    assert not {"target_order", "n_target_classes"} & parameters(made["autoattack"]).keys()
    assert parameters(made["autoattack-malt"])["target_order"] == "malt"
    assert "order" not in parameters(ClassWiseAttack(classifier))
    assert fingerprint(parameters(ClassWiseAttack(classifier, order="malt"))) != fingerprint(
        parameters(ClassWiseAttack(classifier))
    )
    with pytest.raises(InputError, match="'square-malt' doesn't exist: autoattack-malt"):
        ladder("square-malt", "Linf:0.1")
    for attack, name, values in (
        (ClassWiseAttack, "order", ("nearest", None, 1)),
        (AutoAttack, "target_order", ("nearest", None, 1)),
        (AutoAttack, "n_target_classes", (0, -1, 1.5, "all", True)),
    ):
        for value in values:
            with pytest.raises(InputError, match=f"`{name}`"):
                attack(classifier, **{name: value})
