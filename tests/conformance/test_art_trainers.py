"""What calls written for ART's trainers and classifiers mean here: attacks, losses, outputs, constructors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import nn
from trainable import MART, SMALL, STANDARD, TRADES, make, weights

import art_classwise as acw
from art_classwise import InputError
from art_classwise.trainers import METHODS
from art_classwise.trainers.engine.adversary import ArtAdversary
from art_classwise.trainers.policies import WAT, Fixed

AWP = acw.AdversarialTrainerAWPPyTorch
NATURAL = acw.NaturalTrainerPyTorch


@pytest.fixture(scope="module")
def data():
    train = acw.load_dataset("digits", split="train")
    return train.x[:60], train.y[:60]


def classifier_with(loss, module=None, lr=0.1):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) if module is None else module
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    return PyTorchClassifier(
        network, loss, (1, 8, 8), 10, optimizer=optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )


def trained(trainer, data, **options):
    options = {"batch_size": 20, "nb_epochs": 2, **options}
    history = trainer.fit(*data, **options)
    return weights(trainer.get_classifier()), history


def pgd(classifier, eps=0.07, **options):
    return ProjectedGradientDescent(classifier, eps=eps, eps_step=0.02, max_iter=2, verbose=False, **options)


@pytest.mark.parametrize(
    "call",
    [
        lambda t, c, a: t(c, a, beta=3.0, verbose=False),
        lambda t, c, a: t(c, a, 3.0, verbose=False),
        lambda t, c, a: t(c, attack=a, beta=3.0, verbose=False),
        lambda t, c, a: t(c, 3.0, attack=a, verbose=False),
        lambda t, c, a: t(classifier=c, attack=a, beta=3.0, verbose=False),
    ],
)
@pytest.mark.parametrize("method", [TRADES, MART])
def test_trainers_with_a_beta_may_be_called_as_arts_trades(method, call, data):
    expected, _ = trained(method(c := make(), beta=3.0, attack=pgd(c), eps=0.07, eps_step=0.02, verbose=False), data)
    classifier = make()
    trainer = call(method, classifier, pgd(classifier))
    assert (trainer.threat, trainer.eps_step) == (acw.ThreatModel("Linf", 0.07), 0.02)
    assert torch.equal(trained(trainer, data)[0], expected)
    classifier = make()
    assert not torch.equal(trained(method(classifier, pgd(classifier), verbose=False), data)[0], expected)


def test_an_attack_in_any_other_place_is_refused_by_every_trainer():
    classifier = make()
    attack = pgd(classifier)
    for spec in METHODS.values():
        for given in ((attack,), (attack, 6.0), (3, attack), (3, 6.0, attack)):
            if spec.name in ("trades", "mart") and given[0] is attack:
                continue
            for options in ({}, {"beta": 6.0}):
                with pytest.raises(
                    InputError,
                    match="attack=|BAT needs the iterates|its own attack of one step|two attacks|by its name",
                ):
                    spec.trainer(classifier, *given, **options)


def test_what_is_given_twice_or_out_of_order_is_refused(data):
    classifier = make()
    attack = pgd(classifier)
    for call in (
        lambda: TRADES(classifier, 3.0, attack),
        lambda: TRADES(classifier, attack, 3.0, 0.1),
        lambda: TRADES(classifier, attack, attack=attack),
        lambda: TRADES(classifier, attack, attack),
    ):
        with pytest.raises(InputError, match="two attacks|given by its name|`beta` is a number"):
            call()


OTHERS = [
    ({"eps": 0.1}, "eps=0.1", "eps=0.07"),
    ({"norm": 2}, "norm=2", "norm=inf"),
    ({"norm": "L2", "eps": 0.07}, "norm='L2'", "norm=inf"),
    ({"eps_step": 0.01}, "eps_step=0.01", "eps_step=0.02"),
    ({"max_iter": 7}, "max_iter=7", "max_iter=2"),
    ({"eps": 0.1, "norm": 1, "max_iter": 3}, "norm=1, eps=0.1, max_iter=3", "norm=inf, eps=0.07, max_iter=2"),
]


@pytest.mark.parametrize(("options", "given", "has"), OTHERS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_isnt_the_attacks_is_warned_of(options, given, has, wrapped):
    classifier = make()
    attack = acw.TransferAttack(classifier, pgd(classifier)) if wrapped else pgd(classifier)
    for trainer in (TRADES, MART, STANDARD, NATURAL):
        with pytest.warns(
            UserWarning, match=f"is given {given}, but its attack, a .*, has {has}, which appl"
        ) as caught:
            trainer(classifier, attack=attack, **options)
        assert [c.filename for c in caught] == [__file__]


def test_a_trainers_threat_is_its_attacks():
    classifier = make()
    for options in (
        {"eps": 0.07},
        {"norm": np.inf},
        {"norm": "linf", "eps_step": 0.02, "max_iter": 2},
        {"max_iter": 10},
    ):
        assert TRADES(classifier, attack=pgd(classifier), **options).threat == acw.ThreatModel("Linf", 0.07)
    for eps in (np.full((8, 8), 0.1), {k: 0.1 - k / 100 for k in range(10)}):  # the largest, as the attack's own
        assert TRADES(classifier, acw.PGD(classifier, eps=eps, verbose=False)).threat.eps == 0.1
    theirs = ProjectedGradientDescent(classifier, eps=np.full((8, 8), 0.1), eps_step=np.full((8, 8), 0.1))
    assert TRADES(classifier, theirs).threat.eps == 0.1
    inner = acw.TransferAttack(classifier, pgd(classifier))
    assert STANDARD(classifier, attack=inner).threat.eps == 0.07
    assert MART(classifier).threat.eps == 8 / 255


def test_awp_is_standard_training_or_trades_with_the_weights_perturbed(data):
    for mode, base, options in (
        ("PGD", STANDARD, {}),
        ("trades", TRADES, {"beta": 2.0}),
    ):
        expected, _ = trained(base(make(), awp_gamma=0.02, awp_warmup=1, **options, **SMALL), data)
        found, history = trained(AWP(make(), make(), None, mode, 0.02, 2.0, 1, **SMALL), data)
        assert torch.equal(found, expected)
        assert not torch.equal(trained(base(make(), **options, **SMALL), data)[0], expected)
        assert len(history) == 2
    classifier = make()
    with_attack, _ = trained(AWP(classifier, None, pgd(classifier), "TRADES", 0.02, 2.0, 1, verbose=False), data)
    classifier = make()
    as_option = TRADES(classifier, pgd(classifier), 2.0, awp_gamma=0.02, awp_warmup=1, verbose=False)
    assert torch.equal(with_attack, trained(as_option, data)[0])


def test_awp_says_what_is_out_of_range():
    for given, says in (
        ({"mode": "MART"}, "Unknown mode 'MART'"),
        ({"gamma": -1.0}, "awp_gamma"),
        ({"warmup": -1}, "awp_warmup"),
        ({"mode": "TRADES", "beta": -1.0}, "`beta`"),
    ):
        with pytest.raises(InputError, match=says):
            AWP(make(), **given)


def test_madrys_constructor_sets_what_fit_takes(data):
    expected, _ = trained(STANDARD(make(), eps=0.06, eps_step=0.02, max_iter=3, verbose=False), data)
    trainer = STANDARD(make(), 2, 20, 0.06, 0.02, 3, 1, verbose=False)
    history = trainer.fit(*data)
    assert len(history) == 2
    assert torch.equal(weights(trainer.get_classifier()), expected)
    assert len(trainer.fit(*data, nb_epochs=1)) == 1
    assert len(trainer.fit(*data, None, 30, 1)) == 1
    assert len(trainer.fit_generator(NumpyDataGenerator(data[0], np.eye(10)[data[1]], batch_size=20))) == 2
    for options, says in (
        ({"nb_epochs": 0}, "`nb_epochs`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"num_random_init": -1}, "`num_random_init`"),
        ({"num_random_init": 3}, r"PGD\(classifier, num_random_init=3, .*`attack`"),
    ):
        with pytest.raises(InputError, match=says):
            STANDARD(make(), **options)


def test_without_random_start_training_begins_at_the_images(data):
    """One step of eps from x is FGSM, which ART has, too."""
    network = [nn.Flatten(), nn.Linear(64, 10)]
    results = []
    for art in (False, True):
        classifier = classifier_with(nn.CrossEntropyLoss(), nn.Sequential(*network).requires_grad_())
        (
            nn.init.zeros_(network[1].bias),
            nn.init.orthogonal_(network[1].weight, generator=torch.Generator().manual_seed(0)),
        )
        options = {"attack": FastGradientMethod(classifier, eps=0.1)} if art else {"eps_step": 0.1, "max_iter": 1}
        trainer = STANDARD(classifier, eps=0.1, num_random_init=0, precision="fp32", verbose=False, **options)
        results.append(trained(trainer, data)[0])
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    started, _ = trained(STANDARD(make(), **SMALL), data)
    assert not torch.equal(trained(STANDARD(make(), num_random_init=0, **SMALL), data)[0], started)


W = torch.linspace(0.2, 3.0, 10)


def one_step(loss, data, lr=0.1, **options):
    """Train naturally for one step on all images at once."""
    classifier = classifier_with(loss, lr=lr)
    trainer = NATURAL(classifier, precision="fp32", verbose=False, **options)
    history = trainer.fit(*data, batch_size=60, nb_epochs=1)
    return weights(classifier), history


@pytest.mark.parametrize("kind", ["weight", "label_smoothing", "plain"])
def test_a_step_is_that_of_the_classifiers_own_loss(kind, data):
    """By hand, with torch's loss: class weights and label smoothing count as there, on all examples at once."""
    loss = nn.CrossEntropyLoss(
        **{"weight": {"weight": W}, "label_smoothing": {"label_smoothing": 0.2}, "plain": {}}[kind]
    )
    found, history = one_step(loss, data)
    reference = classifier_with(loss)
    x, y = (torch.from_numpy(a) for a in data)
    value = loss(reference.model(x), y)
    reference.optimizer.zero_grad(), value.backward(), reference.optimizer.step()
    np.testing.assert_allclose(found, weights(reference), atol=1e-6)
    np.testing.assert_allclose(history["loss"], value.item(), rtol=1e-5)
    assert not np.allclose(found, one_step(nn.CrossEntropyLoss(), data)[0], atol=1e-6) or kind == "plain"


def test_log_probabilities_with_nll_loss_are_the_cross_entropy_of_logits(data):
    torch.manual_seed(0)
    linear = nn.Linear(64, 10)
    nll = classifier_with(nn.NLLLoss(weight=W), nn.Sequential(nn.Flatten(), linear, nn.LogSoftmax(1)))
    trainer = NATURAL(nll, precision="fp32", verbose=False)
    trainer.fit(*data, batch_size=60, nb_epochs=1)
    np.testing.assert_allclose(weights(nll), one_step(nn.CrossEntropyLoss(weight=W), data)[0], atol=1e-6)


@pytest.mark.parametrize("trainer", [STANDARD, TRADES, MART, NATURAL, AWP, acw.AdversarialTrainerBATPyTorch])
def test_every_trainer_takes_the_weights_over_as_a_policy(trainer, data):
    made = trainer(classifier_with(nn.CrossEntropyLoss(weight=W)), **SMALL)
    assert isinstance(made.class_policy, Fixed)
    history = made.fit(*data, batch_size=30, nb_epochs=1)
    shares = np.bincount(data[1], minlength=10) / 60
    by_hand = W.numpy() / (W.numpy() * shares).sum()
    np.testing.assert_allclose(history[[f"weight_{k}" for k in range(10)]].iloc[0], by_hand, rtol=1e-6)
    smooth = trainer(classifier_with(nn.CrossEntropyLoss(label_smoothing=0.1)), **SMALL)
    assert smooth.options["label_smoothing"] == 0.1
    plain = trainer(classifier_with(nn.CrossEntropyLoss(weight=torch.full((10,), 2.0))), **SMALL)
    assert plain.class_policy is None  # torch's mean is then that without weights


def test_losses_that_trainers_would_not_follow_are_refused():
    class Mine(nn.CrossEntropyLoss):
        def forward(self, outputs, y):
            return super().forward(3 * outputs, y)

    weighted, smooth = nn.CrossEntropyLoss(weight=W), nn.CrossEntropyLoss(label_smoothing=0.1)
    for loss, options, says in (
        (nn.MultiMarginLoss(), {}, "The classifier's loss is MultiMarginLoss, which trainers would not descend"),
        (nn.MSELoss(), {}, "is MSELoss"),
        (Mine(), {}, "is Mine"),
        (nn.functional.multi_margin_loss, {}, "is multi_margin_loss"),
        (nn.CrossEntropyLoss(ignore_index=3), {}, "leaves out class 3"),
        (nn.CrossEntropyLoss(weight=torch.ones(7)), {}, "must be 10 numbers"),
        (nn.CrossEntropyLoss(weight=torch.zeros(10)), {}, "must be 10 numbers, one per class and not all 0"),
        (weighted, {"class_policy": WAT()}, "has class weights, and there is a class policy"),
        (smooth, {"label_smoothing": 0.2}, "has label_smoothing=0.1, and the trainer 0.2"),
    ):
        with pytest.raises(InputError, match=says):
            STANDARD(classifier_with(loss), **SMALL, **options)
    assert STANDARD(classifier_with(smooth), label_smoothing=0.1, **SMALL).options["label_smoothing"] == 0.1
    for loss in (nn.functional.cross_entropy, nn.CrossEntropyLoss(ignore_index=10), nn.CrossEntropyLoss()):
        assert STANDARD(classifier_with(loss), **SMALL).class_policy is None


def test_a_sum_is_warned_of():
    with pytest.warns(UserWarning, match="multiply the learning rate by the batch size"):
        STANDARD(classifier_with(nn.CrossEntropyLoss(reduction="sum")), **SMALL)


class Probabilities(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1)).softmax(1)


@pytest.mark.parametrize("trainer", [STANDARD, TRADES, NATURAL])
@pytest.mark.parametrize(
    ("module", "says"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)), r"its last layer, '2', is a Softmax: "),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Sigmoid()), r"its last layer, '2', is a Sigmoid: "),
        (Probabilities, "return logits, or log-probabilities"),
    ],
)
def test_probabilities_are_warned_of(trainer, module, says, data):
    with pytest.warns(UserWarning, match=f"seems to return probabilities.*{says}"):
        trainer(classifier_with(nn.CrossEntropyLoss(), module()), **SMALL).fit(*data, nb_epochs=1)


def test_log_probabilities_are_not(data):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.LogSoftmax(1))
    STANDARD(classifier_with(nn.CrossEntropyLoss(), module), **SMALL).fit(*data, nb_epochs=1)


def starts(attack, data, **options):
    """Train, and return by (call, image) where each example was when the attack first asked for a gradient."""
    seen, real = [], attack.generate

    def generate(x, y, **extra):
        x_adv = real(x, y, **extra)
        seen.append({image.tobytes(): point for image, point in zip(x, x_adv - x, strict=True)})
        return x_adv

    attack.generate = generate
    classifier = attack.estimator
    STANDARD(classifier, attack=attack, verbose=False).fit(*data, **{"batch_size": 20, "nb_epochs": 2, **options})
    return seen


def random_walk(classifier, **options):
    """An attack that stays where it starts: its one step has no length to speak of."""
    return acw.PGD(classifier, eps=0.1, eps_step=1e-9, max_iter=1, verbose=False, **options)


def test_starts_differ_by_epoch_and_belong_to_examples(data):
    small = starts(random_walk(make()), data)
    first = {k: v for batch in small[:3] for k, v in batch.items()}
    second = {k: v for batch in small[3:] for k, v in batch.items()}
    assert len(first) == len(second) == 60
    flat = np.stack([*first.values(), *second.values()]).reshape(120, -1).round(6)
    # Nobody starts where another does, or where it did in the epoch before.
    inside = np.abs(flat) > 0
    assert len({row.tobytes() for row in flat}) == 120
    assert inside.mean() > 0.3
    whole = starts(random_walk(make()), data, batch_size=60)
    for batch, expected in zip(whole, (first, second), strict=True):
        for image, start in batch.items():
            np.testing.assert_allclose(start, expected[image], atol=1e-7)
    other = starts(random_walk(make(), seed=1), data)
    assert not any(np.allclose(start, first[k], atol=1e-3) for k, start in other[0].items())


def test_a_resumed_training_starts_where_the_whole_one_does(data, tmp_path):
    def train(**options):
        classifier = make()
        trainer = STANDARD(classifier, attack=acw.PGD(classifier, eps=0.1, max_iter=2, verbose=False), verbose=False)
        return classifier, trainer, {"batch_size": 20, "nb_epochs": 3, **options}

    classifier, trainer, options = train()
    trainer.fit(*data, **options)
    again, trainer, options = train(checkpoint_dir=tmp_path)
    real, calls = trainer.attack.generate, []

    def killed(x, y, **extra):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(x, y, **extra)

    trainer.attack.generate = killed
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*data, **options)
    trainer.attack.generate = real
    assert trainer.attack.seed == 0
    trainer.fit(*data, resume=True, **options)
    assert torch.equal(weights(again), weights(classifier))


def test_validations_start_alike_and_attacks_by_the_batch_differ_by_batch(data):
    x, y = data
    classifier = make()
    seen = []

    class Seeds(acw.AutoAttack):
        def generate(self, x, y=None, **kwargs):
            seen.append(self.seed)
            return np.asarray(x, dtype=np.float32)

    attack = Seeds(classifier, eps=0.1, attacks="apgd-ce", verbose=False)
    STANDARD(classifier, attack=attack, verbose=False).fit(x, y, (x[:20], y[:20]), batch_size=20, nb_epochs=2)
    assert len(seen) == 8
    assert seen[3] == seen[7]
    assert len(set(seen)) == 7
    assert attack.seed == 0


def test_a_transfers_surrogate_starts_elsewhere_too(data):
    classifier, surrogate = make(), make()
    attack = acw.TransferAttack(classifier, random_walk(surrogate))
    small = starts(attack, data)
    first, second = ({k: v for batch in part for k, v in batch.items()} for part in (small[:3], small[3:]))
    assert not any(np.allclose(first[k], second[k], atol=1e-3) for k in first)
    assert attack.attack.seed == 0


def test_without_a_loops_numbers_nothing_is_handed_on(data):
    """As validation in other people's loops would call it."""
    classifier = make()
    x, y = (torch.from_numpy(a[:4]) for a in data)
    attack = acw.PGD(classifier, eps=0.1, max_iter=2, verbose=False)
    found = ArtAdversary(attack, 10)(classifier.model, x, y, lambda *shape: torch.rand(shape))
    assert np.array_equal(found.numpy(), attack.generate(x.numpy(), y.numpy()))


def test_numpys_numbers_and_flags_are_taken(data):
    expected, _ = trained(STANDARD(make(), eps=0.05, max_iter=2, crop_padding=1, flip=True, verbose=False), data)
    given = STANDARD(
        make(),
        eps=np.float64(0.05),
        max_iter=np.uint8(2),
        crop_padding=np.uint8(1),
        flip=np.bool_(True),
        seed=np.uint8(0),
        verbose=np.bool_(False),
    )
    assert given.options["flip"] is True
    assert torch.equal(trained(given, data, batch_size=np.uint8(20), nb_epochs=np.int16(2))[0], expected)
