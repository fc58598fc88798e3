from __future__ import annotations

import random
from functools import partial

import art.metrics.metrics
import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import SklearnClassifier
from art.evaluations.great_score import GreatScorePyTorch
from art.metrics import adversarial_accuracy, clever_u, empirical_robustness, loss_sensitivity
from sklearn.linear_model import LogisticRegression

from art_classwise import InputError
from art_classwise._core.state import preserved_random_state
from art_classwise.metrics.per_class import per_class

CLEVER = {"nb_batches": 3, "batch_size": 4, "radius": 0.5, "norm": 2}
FGSM = {"attack_name": "fgsm", "attack_params": {"eps_step": 0.02, "eps": 0.05}}


@pytest.fixture
def network(network, images):
    """The network of the other tests, shifted to predict every class."""
    with torch.no_grad():
        network[5].bias -= network(torch.from_numpy(images)).mean(0)
    return network


@pytest.fixture
def y(own) -> np.ndarray:
    """Labels of all classes but the last: the network's own, but those of the last."""
    assert set(own) == {0, 1, 2, 3}
    return own % 3


def one_hot(y: np.ndarray) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[y]


def classes_of(y: np.ndarray) -> list[np.ndarray]:
    return [y == c for c in np.unique(y)]


def test_loss_sensitivity(classifier, images, y):
    table = per_class(loss_sensitivity)(classifier, images, y, classes=list("abcd"))
    expected = [loss_sensitivity(classifier, images[some], one_hot(y[some])) for some in classes_of(y)]
    assert table.loc[["a", "b", "c"], "value"].tolist() == pytest.approx(expected, rel=1e-6)
    assert table["n"].tolist() == np.bincount(y, minlength=4).tolist()
    assert table["reason"].tolist() == ["", "", "", "no examples"]
    assert np.isnan(table.loc["d", "value"])
    assert table.index.name == "class"
    assert table.equals(per_class(loss_sensitivity)(classifier, images, one_hot(y), classes=list("abcd")))


def test_arguments_may_be_bound_to_the_metric(classifier, images, y):
    """As if they were given with it: ART's metric gets one-hot labels, and its attack the true ones."""
    table = per_class(partial(loss_sensitivity))(classifier, images, y)
    assert table.equals(per_class(loss_sensitivity)(classifier, images, y))
    attack = FastGradientMethod(classifier, eps=0.02)
    table = per_class(partial(adversarial_accuracy, attack_crafter=attack))(classifier, images, y)
    assert table.equals(per_class(adversarial_accuracy, attack_crafter=attack)(classifier, images, y))
    assert per_class(partial(lambda classifier, x, c: c, c=3))(classifier, images, y, c=4).loc[0, "value"] == 4


def test_empirical_robustness(classifier, images, y):
    table = per_class(empirical_robustness, **FGSM)(classifier, images, y)
    expected = [empirical_robustness(classifier, images[some], **FGSM) for some in classes_of(y)]
    assert table.loc[:2, "value"].tolist() == pytest.approx(expected, rel=1e-6)
    assert max(expected) > 0


def test_clever_is_averaged_over_a_classs_examples(classifier, images, y, capsys):
    images, y = images[:5], y[:5]
    table = per_class(clever_u, each=True, seed=7, **CLEVER)(classifier, images, y)
    assert capsys.readouterr().err == ""
    for c in np.unique(y):
        with preserved_random_state(7):
            expected = np.mean([clever_u(classifier, x, **CLEVER, verbose=False) for x in images[y == c]])
        assert table.loc[c, "value"] == pytest.approx(expected)


def test_great_score_of_art_is_the_first_of_what_it_returns(classifier, images, y):
    table = per_class(GreatScorePyTorch)(classifier, images, y)
    for c in np.unique(y):
        score, _ = GreatScorePyTorch(classifier).evaluate(images[y == c], one_hot(y[y == c]))
        assert table.loc[c, "value"] == pytest.approx(score)


def test_adversarial_accuracy_attacks_the_given_labels(classifier, images, y):
    """ART counts, of the examples that the model gets right, those that still are what they were."""
    attack = FastGradientMethod(classifier, eps=0.02)
    table = per_class(adversarial_accuracy)(classifier, images, y, attack_crafter=attack)
    before = classifier.predict(images).argmax(1)
    after = classifier.predict(attack.generate(images, y)).argmax(1)
    for c in np.unique(y):
        right = (y == c) & (before == c)
        if right.any():
            assert table.loc[c, "value"] == pytest.approx((after[right] == c).mean())
        else:
            assert table.loc[c, "reason"] == "adversarial_accuracy is NaN"


class Recording(ProjectedGradientDescent):
    given: list

    def generate(self, x, y=None, **kwargs):
        self.given.append(None if y is None else np.array(y))
        return x


def test_the_attack_gets_the_labels_of_the_class(classifier, images, y):
    attack = Recording(classifier, eps=0.1, eps_step=0.1, verbose=False)
    attack.given = []
    per_class(adversarial_accuracy)(classifier, images, y, attack_crafter=attack)
    assert [g.tolist() for g in attack.given] == [y[some].tolist() for some in classes_of(y)]


@pytest.mark.parametrize("step", [0.02, 0.07])
def test_an_attack_may_be_named_as_in_art(classifier, images, own, step):
    """With the model's own predictions as labels, what ART attacks anyway; a first step above eps is none."""
    named = {"attack_name": "fgsm", "attack_params": {"eps_step": step, "eps": 0.05}}
    table = per_class(adversarial_accuracy, **named)(classifier, images, own)
    for c in np.unique(own):
        expected = adversarial_accuracy(classifier, images[own == c], one_hot(own[own == c]), **named)
        assert table.loc[c, "value"] == pytest.approx(expected)


def test_a_named_attack_writes_no_progress_unless_asked_to(classifier, images, own, capsys, monkeypatch):
    monkeypatch.setitem(art.metrics.metrics.SUPPORTED_METHODS, "pgd", {"class": ProjectedGradientDescent})
    accuracy = per_class(adversarial_accuracy, attack_name="pgd")
    accuracy(classifier, images, own, attack_params={"max_iter": 2})
    assert capsys.readouterr().err == ""
    accuracy(classifier, images, own, attack_params={"max_iter": 2, "verbose": True})
    assert "PGD" in capsys.readouterr().err


def test_a_targeted_attack_is_refused(classifier, images, y):
    attack = FastGradientMethod(classifier, eps=0.02, targeted=True)
    with pytest.raises(InputError, match="fails on every class: The attack is targeted"):
        per_class(adversarial_accuracy)(classifier, images, y, attack_crafter=attack)


def test_a_function_of_ones_own_gets_labels_as_indices_and_the_later_arguments(classifier, images, y):
    def share(classifier, x, y, c, scale=1.0):
        return scale * (y == c).mean() + c

    table = per_class(share, c=1, scale=2.0)(classifier, images, y, scale=3.0)
    assert table["value"].tolist()[:3] == [1, 4, 1]


def test_what_fails_on_one_class_leaves_the_others(classifier, images, y):
    def metric(classifier, x, y):
        if y[0] == 1:
            raise RuntimeError("two are needed\nat least")
        return [1.0, 2.0] if y[0] == 2 else torch.tensor(0.5)

    table = per_class(metric)(classifier, images, y)
    assert table["value"].isna().tolist() == [False, True, True, True]
    assert table.loc[0, ["value", "reason"]].tolist() == [0.5, ""]
    assert table.loc[1, "reason"] == "two are needed"
    assert table.loc[2, "reason"] == "The metric must return a number, but returned [1.0, 2.0]."


def test_what_fails_on_every_class_is_an_error(classifier, images, y):
    with pytest.raises(InputError, match=r"loss_sensitivity fails on every class: .*unexpected keyword"):
        per_class(loss_sensitivity, nonsense=1)(classifier, images, y)


def test_nothing_is_left_behind_and_classes_dont_depend_on_each_other(classifier, network, images, y):
    network.train()
    network[0].eval()
    network[5].weight.requires_grad_(False)
    network[5].bias.grad = torch.ones(4)
    modes = [m.training for m in network.modules()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    seen = []

    def metric(classifier, x, y):
        seen.append([m.training for m in network.modules()])
        classifier.model.train()
        classifier.loss_gradient(x, one_hot(y))
        return float(torch.rand(())) + np.random.random() + random.random()

    table = per_class(metric)(classifier, images, y)
    assert not np.any(seen)
    assert [m.training for m in network.modules()] == modes
    assert network[5].bias.grad.tolist() == [1, 1, 1, 1]
    assert network[0].weight.grad is None
    assert not network[5].weight.requires_grad
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    last = y == y.max()
    assert per_class(metric)(classifier, images[last], y[last]).loc[y.max(), "value"] == table.loc[y.max(), "value"]
    assert per_class(metric, seed=1)(classifier, images, y).loc[0, "value"] != table.loc[0, "value"]


def test_examples_are_left_as_they_are(classifier, images, y):
    def metric(classifier, x):
        x[:] = 0
        return 1

    before = images.copy()
    per_class(metric)(classifier, images, y)
    assert np.array_equal(images, before)


def test_other_classifiers_of_art_will_do(images, y):
    flat = images.reshape(16, -1)
    classifier = SklearnClassifier(LogisticRegression().fit(flat, y))
    table = per_class(lambda classifier, x, y: (classifier.predict(x).argmax(1) == y).mean())(classifier, flat, y)
    assert (table["value"] > 0.5).all()


def test_unusable_input_is_refused_in_a_sentence(classifier, network, images, y):
    with pytest.raises(InputError, match="must be a function or an evaluation of ART, but is a str"):
        per_class("clever")
    with pytest.raises(InputError, match="max doesn't say which arguments it takes: wrap it in a function"):
        per_class(max)
    with pytest.raises(InputError, match="`seed` must be"):
        per_class(loss_sensitivity, seed=-1)
    sensitivity = per_class(loss_sensitivity)
    for arguments, says in [
        ((network, images, y), "must be one of ART, but is a Sequential"),
        ((classifier, images[:0], y[:0]), "no examples"),
        ((classifier, images, y[:3]), "differ in length"),
        ((classifier, images, y + 2), "outside the 4 classes"),
    ]:
        with pytest.raises(InputError, match=says):
            sensitivity(*arguments)
    with pytest.raises(InputError, match="4 classes, but 1 class names"):
        sensitivity(classifier, images, y, classes=["a"])
