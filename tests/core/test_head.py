"""The last linear layer: found, normalised in a copy, and its units switched off."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.head import OFF, check_last, find_head, switch_off


def small(n_classes=4, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.ReLU(), nn.Linear(8, n_classes, bias=bias))


def literal(weight, tau):
    """w_c / ||w_c||^tau, row by row, in plain Python."""
    rows = []
    for row in weight.tolist():
        norm = sum(w * w for w in row) ** 0.5
        rows.append([w / norm**tau if norm else 0.0 for w in row])
    return torch.tensor(rows)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


class Wrapped(nn.Module):
    """A network within a network, with something behind the head."""

    def __init__(self):
        super().__init__()
        self.network, self.last = small(), nn.Identity()

    def forward(self, x):
        return self.last(self.network(x))


class Auxiliary(nn.Module):
    """Two linear layers with as many outputs, of which the first one is the network's last."""

    def __init__(self):
        super().__init__()
        self.features, self.head, self.unused = nn.Linear(108, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.features(x.flatten(1)).relu())


# Finding it.


def test_the_head_is_the_last_linear_layer_however_deep():
    network = small()
    assert find_head(network) is network[3]
    wrapped = Wrapped()
    assert find_head(wrapped) is wrapped.network[3]
    alone = nn.Linear(3, 2)
    assert find_head(alone) is alone


def test_the_number_of_outputs_chooses():
    network = small()
    assert find_head(network, 4) is network[3]
    assert find_head(network, 8) is network[1]


@pytest.mark.parametrize(
    ("architecture", "shape", "name"),
    [
        ("digits-cnn", (1, 8, 8), "8"),
        ("mnist-cnn", (1, 28, 28), "classifier.fc3"),
        ("resnet18", (3, 32, 32), "linear"),
        ("preactresnet18", (3, 32, 32), "linear"),
        ("wrn-10-1", (3, 32, 32), "fc"),
    ],
)
def test_networks_of_this_package_have_a_head_that_can_be_normalised(architecture, shape, name):
    network = acw.build(architecture, shape, 5, seed=0).eval()
    assert find_head(network, 5) is find_head(network) is network.get_submodule(name)
    copied = acw.head.normalize_head(network)
    torch.testing.assert_close(find_head(copied).weight.norm(dim=1), torch.ones(5))
    x = torch.rand(2, *shape)
    with torch.no_grad():
        logits, before = copied(x), network(x)
        switch_off(find_head(network), [1, 3])
        switched = network(x)
    assert logits.shape == before.shape == (2, 5)
    assert not torch.allclose(logits, before)
    torch.testing.assert_close(switched[:, [0, 2, 4]], before[:, [0, 2, 4]])
    assert (switched[:, [1, 3]] == OFF).all()


@pytest.mark.parametrize(
    ("module", "n_classes", "says"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()),
            None,
            r"Sequential has no linear layer \(torch.nn.Linear\) whos",
        ),
        (small(), 10, r"Sequential has no linear layer \(torch.nn.Linear\) with 10 outputs whose rows would be the cl"),
        (nn.Flatten(), None, "The network Flatten has no linear layer"),
    ],
)
def test_a_network_without_a_head_is_refused(module, n_classes, says):
    with pytest.raises(InputError, match=says):
        find_head(module, n_classes)


# Normalising it.


@pytest.mark.parametrize("tau", [0, 0.25, 0.5, 0.9, 1])
def test_rows_are_divided_by_a_power_of_their_norms(tau):
    network = small()
    before = state(network)
    copied = acw.head.normalize_head(network, tau)
    torch.testing.assert_close(copied[3].weight.detach(), literal(before["3.weight"], tau))
    # ||w / ||w||^tau|| = ||w||^(1 - tau)
    norms = before["3.weight"].norm(dim=1)
    torch.testing.assert_close(copied[3].weight.detach().norm(dim=1), norms ** (1 - tau))
    for name, value in state(copied).items():
        if name != "3.weight":
            assert torch.equal(value, before[name])  # the bias, too


def test_tau_zero_changes_nothing_to_the_bit_and_one_makes_all_norms_one():
    network = small()
    unchanged = acw.head.normalize_head(network, 0)
    assert all(torch.equal(value, state(network)[name]) for name, value in state(unchanged).items())
    torch.testing.assert_close(acw.head.normalize_head(network)[3].weight.detach().norm(dim=1), torch.ones(4))


def test_predictions_are_those_of_scaled_logits():
    network = small(bias=False)
    x = torch.rand(50, 3, 6, 6)
    with torch.no_grad():
        expected = network(x) / network[3].weight.norm(dim=1) ** 0.7
        torch.testing.assert_close(acw.head.normalize_head(network, 0.7)(x), expected)


def test_the_longest_rows_no_longer_win_by_their_length():
    """Two classes of the same direction: the longer one always wins, until both are as long."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[10.0, 0.0], [0.6, 0.8]]))
    x = torch.tensor([[1.0, 1.0], [1.0, 0.1]])
    assert network(x).argmax(1).tolist() == [0, 0]
    assert acw.head.normalize_head(network)(x).argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_rows_of_zeros_stay_zero(tau):
    network = small()
    switch_off(network[3], [2])
    copied = acw.head.normalize_head(network, tau)
    assert copied[3].weight[2].tolist() == [0.0] * 8
    assert copied[3].bias[2].item() == OFF
    assert copied[3].weight.isfinite().all()
    assert not (copied(torch.rand(100, 3, 6, 6)).argmax(1) == 2).any()


def test_the_copy_is_independent_and_the_network_as_it_was():
    network = small().train()
    network[3].weight.requires_grad_(False)
    network(torch.rand(2, 3, 6, 6)).sum().backward()
    before, gradient = state(network), network[1].weight.grad.clone()
    copied = acw.head.normalize_head(network, 0.5)
    assert copied is not network
    assert copied.training
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in network.parameters()]
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in network.parameters()}
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    assert all(torch.equal(value, before[name]) for name, value in state(network).items())
    assert torch.equal(network[1].weight.grad, gradient)


def test_the_copy_can_be_trained():
    copied = acw.head.normalize_head(small(), 0.5)
    before = copied[3].weight.detach().clone()
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
    copied(torch.rand(4, 3, 6, 6)).logsumexp(1).sum().backward()
    optimizer.step()
    assert not torch.equal(copied[3].weight, before)


def test_it_stands_where_an_art_classifiers_network_did(classifier, images, own):
    """Attacked and audited like any other."""
    normalised = acw.as_classifier(acw.head.normalize_head(classifier.model), (3, 6, 6), 4, device="cpu")
    logits, bias = classifier.predict(images), classifier.model[5].bias.detach().numpy()
    norms = classifier.model[5].weight.detach().norm(dim=1).numpy()
    np.testing.assert_allclose(normalised.predict(images), (logits - bias) / norms + bias, rtol=1e-4, atol=1e-5)
    data = acw.Dataset(images, own, ("ant", "bee", "cow", "doe"))
    audit = acw.ClassWiseAudit("Linf:0.05", ("fgsm",), verbose=False)
    result = audit.evaluate({"as it was": classifier, "normalised": normalised}, data)
    assert result.summary()["clean"]["as it was"] == 1


def test_the_head_of_a_classifier_trained_without_a_class_stays_switched_off(train_set):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    classifier = acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer, device="cpu")
    trainer = acw.AdversarialTrainerClassExcludedPyTorch(classifier, [4], eps=0.05, max_iter=1, verbose=False)
    trainer.fit(train_set.x[:100], train_set.y[:100], nb_epochs=1)
    normalised = acw.as_classifier(acw.head.normalize_head(network), (1, 8, 8), 10, device="cpu")
    logits = normalised.predict(train_set.x)
    assert np.isfinite(logits).all()
    assert (logits[:, 4] == OFF).all()


@pytest.mark.parametrize("tau", [-0.1, 1.1, float("nan"), float("inf"), "1", None, True])
def test_a_power_out_of_range_is_refused(tau):
    with pytest.raises(InputError, match="`tau` must be a number from 0 to 1, but got"):
        acw.head.normalize_head(small(), tau)


def test_a_network_that_cannot_be_copied_is_refused():
    class Whole(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is but one")

    with pytest.raises(InputError, match="The network Whole can't be copied: there is but one"):
        acw.head.normalize_head(Whole(3, 2))
    with pytest.raises(InputError, match="Flatten has no linear layer"):
        acw.head.normalize_head(nn.Flatten())


def test_the_layer_may_be_told_by_its_outputs():
    """An auxiliary layer that was added after the head would be taken for it."""
    network = nn.ModuleDict({"head": nn.Linear(5, 4), "auxiliary": nn.Linear(5, 2)})
    own = {name: layer.weight.clone() for name, layer in network.items()}
    repaired = acw.head.normalize_head(network, n_classes=4)
    torch.testing.assert_close(repaired["head"].weight.norm(dim=1), torch.ones(4))
    assert torch.equal(repaired["auxiliary"].weight, own["auxiliary"])
    assert torch.equal(acw.head.normalize_head(network)["head"].weight, own["head"])
    with pytest.raises(InputError, match="no linear layer .* with 3 outputs"):
        acw.head.normalize_head(network, n_classes=3)


def test_a_classifier_is_no_network(train_set):
    classifier = acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10), (1, 8, 8), 10, device="cpu")
    with pytest.raises(InputError, match="must be a torch module, but is a Classifier: .* give its `model`"):
        acw.head.normalize_head(classifier)


# Switching units off.


def test_a_unit_switched_off_gives_a_constant_that_nothing_reaches():
    network = small()
    x = torch.rand(20, 3, 6, 6, requires_grad=True)
    before = network(x)
    switch_off(network[3], (0, 3))
    after = network(x)
    assert torch.equal(after[:, 1:3], before[:, 1:3])
    assert (after[:, [0, 3]] == OFF).all()
    assert after.softmax(1)[:, [0, 3]].eq(0).all()  # exactly, and its logarithm is finite
    assert after.log_softmax(1).isfinite().all()
    (gradient,) = torch.autograd.grad(after[:, [0, 3]].sum(), x)
    assert gradient.eq(0).all()
    assert network[3].weight.requires_grad


def test_it_is_checked_that_the_head_is_the_last_layer():
    sample = torch.rand(2, 3, 6, 6)
    auxiliary = Auxiliary().train()
    with pytest.raises(InputError, match="The network Auxiliary changes the outputs of its last linear layer"):
        check_last(auxiliary, find_head(auxiliary), sample)
    assert auxiliary.training
    check_last(auxiliary, auxiliary.head, sample)
    assert not auxiliary.head._forward_hooks


@pytest.mark.parametrize(
    "behind",
    [nn.Softmax(1), nn.Sigmoid(), nn.ReLU(), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 4), nn.BatchNorm1d(4)],
)
def test_what_changes_the_logits_behind_the_head_is_noticed(behind):
    """A batch norm, too, which is all but the identity until it has been trained."""
    network = nn.Sequential(small(), behind).eval()
    with pytest.raises(InputError, match="exclude them in a network whose logits are that layer's outputs"):
        check_last(network, network[0][3], torch.rand(2, 3, 6, 6))


@pytest.mark.parametrize("behind", [nn.Identity(), nn.LogSoftmax(1), nn.Dropout(0.5)])
def test_what_leaves_their_differences_may_stand_behind_it(behind):
    network = nn.Sequential(small(), behind)
    check_last(network, network[0][3], torch.rand(2, 3, 6, 6))


def test_a_copy_keeps_units_switched_off():
    network = small()
    switch_off(network[3], [1])
    assert copy.deepcopy(network)[3].bias[1].item() == OFF


# What would be normalised in vain.


@pytest.mark.parametrize(
    "parametrize",
    [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm],
)
def test_weights_that_are_computed_anew_at_each_pass_are_refused(parametrize):
    """Divided in place they would come back unchanged, and nobody would know."""
    network = nn.Sequential(nn.Flatten(), parametrize(nn.Linear(108, 4)))
    with pytest.raises(InputError, match="parametri"):
        acw.head.normalize_head(network)
