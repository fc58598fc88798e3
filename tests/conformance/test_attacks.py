"""What ART asks of an evasion attack, of every attack of ours."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import BlackBoxClassifier, SklearnClassifier
from art.estimators.regression import PyTorchRegressor
from art.exceptions import EstimatorError
from sklearn.linear_model import LogisticRegression
from torch import nn

from art_classwise import InputError
from art_classwise.attacks import PGD, TransferAttack


def wrong(classifier, x, y):
    return classifier.predict(x).argmax(1) != y


@pytest.fixture
def blackbox(classifier):
    return BlackBoxClassifier(classifier.predict, (3, 6, 6), 4, clip_values=(0, 1))


@pytest.fixture
def regressor():
    return PyTorchRegressor(nn.Sequential(nn.Flatten(), nn.Linear(108, 1)), nn.MSELoss(), (3, 6, 6))


@pytest.fixture
def linear_classifier(images, labels):
    """Of scikit-learn: it has gradients, but no torch module."""
    model = LogisticRegression().fit(images.reshape(16, -1), labels)
    return SklearnClassifier(model, clip_values=(0, 1))


@pytest.mark.parametrize("estimator", ["blackbox", "linear_classifier", "regressor", "object"])
def test_another_estimator_is_arts_error(linf_kind, estimator, request):
    given = object() if estimator == "object" else request.getfixturevalue(estimator)
    with pytest.raises(EstimatorError):
        linf_kind(given)


def test_a_transfer_attack_asks_for_predictions_only(classifier, blackbox, regressor, images, own):
    attack = PGD(classifier, eps=0.1, max_iter=4, verbose=False)
    expected = attack.generate(images, own)
    assert np.array_equal(TransferAttack(blackbox, attack).generate(images, own), expected)
    assert np.array_equal(TransferAttack(blackbox, attack).generate(images), expected)
    for estimator in (regressor, object()):
        with pytest.raises(EstimatorError):
            TransferAttack(estimator, attack)


def test_the_result_is_float32_images_in_ball_and_box_and_x_stays(case, classifier, images, own):
    before, y = images.copy(), own.copy()
    x_adv = case(classifier).generate(images, y)
    assert (type(x_adv), x_adv.dtype, x_adv.shape) == (np.ndarray, np.float32, images.shape)
    assert np.array_equal(images, before)
    assert np.array_equal(y, own)
    assert not np.shares_memory(x_adv, images)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert case.size(x_adv - images).max() <= case.eps * (1 + 1e-5)
    assert wrong(classifier, x_adv, own).mean() >= 0.25  # it does attack


def test_x_may_be_of_any_layout_and_type(each, classifier, images, own):
    attack = each(classifier)
    expected = attack.generate(images, own)
    for x in (images.astype(np.float64), np.asfortranarray(images), images[::-1][::-1], images.tolist()):
        assert np.array_equal(attack.generate(x=x, y=own), expected)
    whole = np.rint(images).astype(np.uint8)
    assert np.array_equal(attack.generate(whole, own), attack.generate(np.rint(images), own))
    assert attack.generate(images[:1], own[:1]).shape == (1, 3, 6, 6)


def test_x_may_be_read_only(linf, classifier, images, own, torch_always_warns):
    """As a memory-mapped array is: torch warns of tensors on such."""
    expected = linf(classifier).generate(images, own)
    images.flags.writeable = own.flags.writeable = False
    assert np.array_equal(linf(classifier).generate(images, own), expected)


@pytest.fixture
def torch_always_warns():
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


def test_labels_are_indices_one_hot_or_absent(each, classifier, images, own):
    attack = each(classifier)
    expected = attack.generate(images, own)
    for y in (np.eye(4)[own], np.eye(4, dtype=np.float32)[own], own[:, None], own.astype(np.int32), own.tolist()):
        assert np.array_equal(attack.generate(images, y), expected)
    for x_adv in (attack.generate(images), attack.generate(images, None), attack.generate(x=images, y=None)):
        assert np.array_equal(x_adv, expected)


def test_a_mask_holds_pixels(search, classifier, images, own):
    attack = search(classifier)
    random_mask = np.random.default_rng(5).random((16, 3, 6, 6)) < 0.5
    channel = np.zeros((3, 1, 1))
    channel[1] = 1
    for mask in (
        random_mask,
        random_mask.astype(np.float64),
        random_mask[:1],
        channel,
        np.ones(6) * [0, 1, 1, 1, 0, 1],
    ):
        free = np.broadcast_to(mask, images.shape) != 0
        x_adv = attack.generate(images, own, mask=mask)
        assert np.array_equal(x_adv[~free], images[~free])
        assert (x_adv[free] != images[free]).any()
        assert search.size(x_adv - images).max() <= search.eps * (1 + 1e-5)
    assert np.array_equal(attack.generate(images, own, mask=None), attack.generate(images, own))


def test_a_mask_of_zeros_holds_everything(from_x, classifier, images, own):
    assert np.array_equal(from_x(classifier).generate(images, own, mask=np.zeros((6, 6))), images)


def test_a_mask_that_doesnt_broadcast_is_refused(linf, classifier, images, own):
    with pytest.raises(InputError, match=r"mask of shape \(5, 5\)|takes no mask"):
        linf(classifier).generate(images, own, mask=np.ones((5, 5)))
    with pytest.raises(InputError, match="maks"):
        linf(classifier).generate(images, own, maks=1)


def test_three_random_starts_are_never_weaker_than_the_first(search, classifier, images, own):
    one, three = (search(classifier, num_random_init=n).generate(images, own) for n in (1, 3))
    assert search.size(three - images).max() <= search.eps * (1 + 1e-5)
    assert three.min() >= 0
    assert three.max() <= 1
    assert (wrong(classifier, three, own) >= wrong(classifier, one, own)).all()
    other = search(classifier, num_random_init=3, seed=1).generate(images, own)
    assert not np.array_equal(other, three)


def test_targeted_hits_at_least_half(targeted, classifier, images, own):
    target = (own + 1) % 4
    before = images.copy()
    attack = targeted(classifier, targeted=True, eps=4 * targeted.eps, max_iter=20)
    assert attack.targeted
    x_adv = attack.generate(images, target)
    assert (~wrong(classifier, x_adv, target)).mean() >= 0.5
    assert targeted.size(x_adv - images).max() <= 4 * targeted.eps * (1 + 1e-5)
    assert np.array_equal(images, before)
    assert np.array_equal(attack.generate(images, np.eye(4)[target]), x_adv)
    with pytest.raises(ValueError, match="needs the target labels"):
        attack.generate(images)


def test_classwise_hits_at_least_half_of_its_targets(classifier, images, own):
    from art_classwise.attacks import ClassWiseAttack

    for target in range(4):
        others = own != target
        attack = ClassWiseAttack(classifier, eps=0.4, targets=[target], max_iter=20, verbose=False)
        x_adv = attack.generate(images[others], own[others])
        assert (classifier.predict(x_adv).argmax(1) == target).mean() >= 0.5


def test_is_an_art_attack_with_its_parameters_as_attributes(each, classifier):
    attack = each(classifier)
    assert isinstance(attack, EvasionAttack)
    assert attack.estimator is classifier
    assert attack.targeted is False
    assert set(EvasionAttack.attack_params) <= set(attack.attack_params)
    assert len(set(attack.attack_params)) == len(attack.attack_params)
    assert all(hasattr(attack, name) for name in attack.attack_params)
    shown = repr(attack)
    assert shown.startswith(f"{type(attack).__name__}(")
    assert all(f"{name}=" in shown for name in attack.attack_params)


def test_every_parameter_of_the_constructor_is_an_attack_parameter(each, classifier):
    import inspect

    attack = each(classifier)
    names = set(inspect.signature(type(attack).__init__).parameters) - {"self", "estimator", "options"}
    assert names <= set(attack.attack_params)
    shared = {"batch_size", "norm", "eps", "verbose"}
    assert shared <= set(attack.attack_params) or each.name == "TransferAttack"


def test_set_params_is_as_good_as_the_constructor(each, classifier, images, own):
    attack = each(classifier)
    if each.name == "TransferAttack":
        attack.set_params(attack=PGD(classifier, norm=each.norm, eps=each.eps / 8, max_iter=4, verbose=False))
    else:
        attack.set_params(eps=each.eps / 8, batch_size=16)
    x_adv = attack.generate(images, own)
    assert each.size(x_adv - images).max() <= each.eps / 8 * (1 + 1e-4)
    assert np.array_equal(x_adv, each(classifier, eps=each.eps / 8, batch_size=16).generate(images, own))


BAD = {
    "norm": ("L3", 3, None, True, np.nan),
    "eps": (0, -0.1, np.nan, np.inf, "8/255", None, True),
    "eps_step": (0, -0.1, np.nan, np.inf, "1/255", True),
    "max_iter": (0, -1, 2.5, "3", None, True),
    "num_random_init": (-1, 1.5, None, True),
    "targeted": ("yes", 1, None),
    "momentum": (-0.1, np.nan, np.inf, "0.9", None),
    "early_stop": ("yes", 1, None),
    "decay": (-0.1, np.nan, np.inf, "0.9"),
    "random_eps": ("yes", 1, None),
    "minimal": ("yes", 1, None),
    "batch_size": (0, -1, 2.5, None, True),
    "seed": (-1, 1.5, None, True, 2**63),
    "precision": ("fp16", None, 32),
    "compile": ("yes", 1, None),
    "verbose": (1, "no", None),
    "loss": ("nonsense", None, 1),
    "inverse_temperature": (0, -1, np.nan, "5", None, True),
    "targets": ("none", 0, -1, 1.5, [4], [-1], [0, 0], [], np.ones((4, 4), dtype=bool), np.ones((3, 3)), None),
    "excluded": ([4], [-1], [0.5], [0, 0], 3, [0, 1, 2]),
    "attacks": ("nonsense", (), 3, ("apgd-ce", "apgd-ce"), ["apgd-ce", object()]),
    "n_iter": (0, 1.5, None, True),
    "n_queries": (0, 1.5, None, True),
    "micro_batch_size": (0, -1, 1.5, True, "8"),
}


_ALLOWED = {("MinimumNormAttack", "eps"): None, ("MinimumNormAttack", "targets"): 0}  # no limit; no other walks
BAD["gamma"] = (0, 1, -0.1, np.nan, "0.05", None, True)


def test_bad_parameters_are_named(linf, classifier):
    attack = linf(classifier)
    says = {"eps": "`eps`|radius", "loss": "loss", "attacks": "`attacks`|member of AutoAttack"}
    for parameter in set(attack.attack_params) - {"summary_writer", "attack"}:
        match, before = says.get(parameter, f"`{parameter}`"), dict(vars(attack))
        for value in BAD.get(parameter, ("nonsense", object())):
            if value is _ALLOWED.get((linf.name, parameter), ...):
                continue
            with pytest.raises((ValueError, TypeError), match=match):
                linf(classifier, **{parameter: value})
            with pytest.raises((ValueError, TypeError), match=match):
                attack.set_params(**{parameter: value})
            assert vars(attack) == before


def test_a_bad_inner_attack_is_named(classifier, blackbox):
    for attack in (None, "pgd", object(), PGD):
        with pytest.raises(ValueError, match="`attack`"):
            TransferAttack(classifier, attack)
    other = PyTorchRegressor(nn.Sequential(nn.Flatten(), nn.Linear(108, 1)), nn.MSELoss(), (3, 6, 6))
    with pytest.raises(EstimatorError):
        TransferAttack(other, PGD(classifier))


def test_nothing_global_is_left_changed(case, classifier, images, own):
    model = classifier.model.train()
    model[1].eval()  # a frozen BatchNorm in a training network
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = gradient = torch.ones_like(model[5].weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    case(classifier).generate(images, own)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 5]
    assert model[5].weight.grad is gradient
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert model[5].bias.grad is None
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_the_mode_of_the_network_changes_no_result(each, classifier, images, own):
    """Dropout and BatchNorm are in eval mode during an attack."""
    attack = each(classifier)
    expected = attack.generate(images, own)
    classifier.model.train()
    assert np.array_equal(attack.generate(images, own), expected)
    with torch.no_grad():
        assert np.array_equal(attack.generate(images, own), expected)


def test_global_seeds_change_no_result(each, classifier, images, own):
    starts = "num_random_init" in each(classifier).attack_params or each.name == "TransferAttack"
    attack = each(classifier, **({"num_random_init": 2} if starts else {}))
    results = []
    for seed in (1, 2):
        np.random.seed(seed), torch.manual_seed(seed)
        results.append(attack.generate(images, own))
    assert np.array_equal(*results)


def test_batch_size_changes_nothing(search, classifier, images, own):
    options = {"num_random_init": 2, "seed": 3}
    whole = search(classifier, batch_size=16, **options).generate(images, own)
    for batch_size in (5, 1000):
        part = search(classifier, batch_size=batch_size, **options).generate(images, own)
        np.testing.assert_allclose(part, whole, atol=1e-5)


def test_order_and_company_change_nothing_given_the_examples_numbers(each_search, classifier, images, own):
    attack = each_search(classifier, num_random_init=2)
    assert attack.uses_example_ids
    whole = attack.generate(images, own)
    for rows in (np.arange(16)[::-1], np.array([7, 2, 11])):
        part = attack.generate(images[rows], own[rows], example_ids=rows)
        np.testing.assert_allclose(part, whole[rows], atol=1e-5)
    shifted = attack.generate(images, own, example_ids=np.arange(100, 116))
    assert not np.allclose(shifted, whole, atol=1e-3)
    with pytest.raises(InputError, match="one number per example"):
        attack.generate(images, own, example_ids=[1])


def test_quiet_unless_verbose(linf, classifier, images, own, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")  # in a log, too
    linf(classifier).generate(images, own)
    assert capsys.readouterr() == ("", "")
    linf(classifier, verbose=True).generate(images, own)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("PGD" if linf.name == "TransferAttack" else type(linf(classifier)).__name__) in shown.err
