"""Training without some classes is training a network that never had their outputs, on the other examples.

Run as a script this file trains alone or under ``torchrun``, for the last tests.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from art.estimators.classification import PyTorchClassifier
from processes import alone_and_together
from torch import nn
from trainable import UNTAUGHT

import art_classwise as acw
from art_classwise import InputError
from art_classwise.head import OFF
from art_classwise.trainers import METHODS, trained_weights

EXCLUDED = (2, 5)
KEPT = [0, 1, 3, 4, 6, 7, 8, 9]
PLACE = np.array([0, 1, -1, 2, 3, -1, 4, 5, 6, 7])
"""Of each class kept, its number among the others."""
# In L2 a step is a continuous function of the gradient: rounding stays rounding.
SMALL = {"norm": 2, "eps": 0.6, "max_iter": 2, "verbose": False}


class Network(nn.Module):
    """A small smooth network; with fewer outputs it has the rows of the classes kept."""

    def __init__(self, n_classes=10):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 10)
        if n_classes < 10:
            whole, self.head = self.head, nn.Linear(4 * 36, n_classes)
            with torch.no_grad():
                self.head.weight.copy_(whole.weight[KEPT])
                self.head.bias.copy_(whole.bias[KEPT])

    def forward(self, x):
        return self.head(self.norm(self.features(x)).tanh().flatten(1))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2)


def make(network=Network, n_classes=10, optimizer=sgd, **options):
    torch.manual_seed(0)
    module = network(n_classes) if network is Network else network()
    made = optimizer(module.parameters())
    return acw.as_classifier(module, (1, 8, 8), n_classes, optimizer=made, device="cpu", **options)


def trainer_of(classifier, objective="standard", excluded=EXCLUDED, **options):
    return acw.AdversarialTrainerClassExcludedPyTorch(classifier, excluded, objective, **{**SMALL, **options})


def state(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def without(data):
    """The examples of the other classes."""
    return data.take(np.flatnonzero(~np.isin(data.y, EXCLUDED)))


def predicted(classifier, x):
    """Predicted classes; the logits must be finite."""
    logits = classifier.predict(x)
    assert np.isfinite(logits).all()
    return set(logits.argmax(1).tolist())


def drop(history):
    return history.drop(columns="images_per_second")


@pytest.fixture(scope="module")
def data():
    return acw.load_dataset("digits", "train").first(150)


@pytest.fixture(scope="module")
def validation():
    test = without(acw.load_dataset("digits", "test").first(80))
    return test.x, test.y


@pytest.fixture(scope="module")
def trained(data):
    """A network trained without two classes until it is good at the others."""
    classifier = make()
    trainer_of(classifier, "trades", beta=2.0).fit(data.x, data.y, batch_size=32, nb_epochs=8)
    return classifier


# Without their data and output units, literally.


def check_same(one, other, of_one, of_other, tolerance):
    """Check that a network of ten outputs is that of eight, and that its history says the same."""
    for name, value in other.items():
        got = one[name][KEPT] if one[name].shape != value.shape else one[name]
        torch.testing.assert_close(got, value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    assert one["head.weight"][list(EXCLUDED)].eq(0).all()
    assert one["head.bias"][list(EXCLUDED)].eq(OFF).all()
    columns = {c: c.rpartition("_") for c in of_one}
    for column, (kind, _, number) in columns.items():
        if number.isdigit() and int(number) in EXCLUDED:
            assert of_one[column].isna().all(), column
            continue
        twin = f"{kind}_{PLACE[int(number)]}" if number.isdigit() else column
        atol = tolerance if column in ("loss", "learning_rate") else 0.03  # a prediction may change sides
        np.testing.assert_allclose(of_one[column], of_other[twin], rtol=0, atol=atol, err_msg=column)


def train_both(data, validation, objective, options=None, optimizer=sgd, **fit):
    """Train ten outputs without two classes, and eight outputs on what is left, in the numbering of eight."""
    fit = {"batch_size": 40, "nb_epochs": 2, **fit}
    ten = make(optimizer=optimizer)
    schedule = torch.optim.lr_scheduler.StepLR(ten.optimizer, 1, 0.5)
    of_ten = trainer_of(ten, objective, **(options or {})).fit(
        data.x, data.y, validation_data=validation, scheduler=schedule, **fit
    )
    eight, left = make(n_classes=8, optimizer=optimizer), without(data)
    schedule = torch.optim.lr_scheduler.StepLR(eight.optimizer, 1, 0.5)
    of_eight = (
        METHODS[objective]
        .trainer(eight, **{**SMALL, **(options or {})})
        .fit(left.x, PLACE[left.y], validation_data=(validation[0], PLACE[validation[1]]), scheduler=schedule, **fit)
    )
    return state(ten), state(eight), drop(of_ten), drop(of_eight)


SWITCHES = {
    "plain": {},
    "smoothed, averaged, perturbed and clipped": {
        "label_smoothing": 0.2,
        "ema_decay": 0.7,
        "awp_gamma": 1e-2,
        "gradient_clip": 0.5,
        "two_passes": True,
    },
}


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("objective", UNTAUGHT)
def test_it_is_training_a_network_that_never_had_them(objective, switches, data, validation):
    check_same(*train_both(data, validation, objective, SWITCHES[switches]), tolerance=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-1, eps=1e-3),
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1.0, eps=1e-3),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=1e-2, eps=1e-2),
    ],
    ids=["Adam", "AdamW", "Nesterov", "RMSprop"],
)
def test_it_is_so_with_any_optimizer(optimizer, data, validation):
    """Weight decay, momentum and second moments of the units switched off reach no other weight."""
    check_same(*train_both(data, validation, "trades", optimizer=optimizer), tolerance=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"crop_padding": 1, "flip": True},
        {"norm": np.inf, "eps": 0.05},
        {"class_policy": acw.policies.Fixed({0: 2.0, 7: 0.5})},
    ],
    ids=["augmented", "Linf", "class weights"],
)
def test_it_is_so_with_other_options(options, data, validation):
    twin = dict(options)
    if "class_policy" in options:
        weights = acw.policies.Fixed({int(PLACE[0]): 2.0, int(PLACE[7]): 0.5})
        twin["class_policy"] = weights
    ten, left = make(), without(data)
    history = trainer_of(ten, **options).fit(data.x, data.y, validation_data=validation, batch_size=40, nb_epochs=2)
    eight = make(n_classes=8)
    trainer = METHODS["standard"].trainer(eight, **{**SMALL, **twin})
    of_eight = trainer.fit(
        left.x, PLACE[left.y], validation_data=(validation[0], PLACE[validation[1]]), batch_size=40, nb_epochs=2
    )
    columns = [c for c in history if not c.startswith(("weight_", "beta_"))]
    # Linf's signs may turn where a gradient is all but zero.
    check_same(state(ten), state(eight), drop(history[columns]), drop(of_eight), 1e-3 if "eps" in options else 1e-4)


def test_leaving_out_the_examples_alone_would_be_another_training(data, validation):
    """So the tests above would notice output units that still count."""
    expected = train_both(data, validation, "standard")[1]
    ten, left = make(), without(data)
    METHODS["standard"].trainer(ten, **SMALL).fit(left.x, left.y, batch_size=40, nb_epochs=2)
    assert (state(ten)["head.bias"][KEPT] - expected["head.bias"]).abs().max() > 1e-3


def test_the_data_of_all_classes_or_of_the_others_are_the_same(data, validation):
    left, results = without(data), []
    one_hot = np.eye(10, dtype=np.float32)
    for x, y in ((data.x, data.y), (left.x, left.y), (data.x, one_hot[data.y]), (torch.from_numpy(data.x), data.y)):
        classifier = make()
        history = trainer_of(classifier, "mart").fit(x, y, validation_data=validation, batch_size=40, nb_epochs=1)
        results.append((state(classifier), drop(history)))
    for weights, history in results[1:]:
        assert all(torch.equal(weights[name], value) for name, value in results[0][0].items())
        assert history.equals(results[0][1])


def test_images_read_as_needed_are_left_out_as_those_in_memory(data, tmp_path):
    np.save(tmp_path / "x.npy", data.x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    held, read = make(), make()
    trainer_of(held).fit(data.x, data.y, batch_size=40, nb_epochs=1)
    trainer_of(read).fit(mapped, data.y, batch_size=40, nb_epochs=1)
    for name, value in state(held).items():
        torch.testing.assert_close(state(read)[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", sorted(UNTAUGHT))
def test_every_trainer_takes_the_classes_to_exclude_itself(objective, data):
    """To the bit as the trainer that takes a method's name; warnings point here."""
    named, own = make(), make()
    ours = METHODS[objective].trainer(own, excluded=EXCLUDED, **SMALL)
    assert ours.excluded == EXCLUDED
    test = acw.load_dataset("digits", "test").first(80)
    fit = {"validation_data": (test.x, test.y), "batch_size": 50, "nb_epochs": 1}
    with pytest.warns(UserWarning, match="left out"):
        trainer_of(named, objective).fit(data.x, data.y, **fit)
    with pytest.warns(UserWarning, match="left out") as warned:
        ours.fit(data.x, data.y, **fit)
    assert [Path(one.filename) for one in warned] == [Path(__file__)]
    assert all(torch.equal(value, state(named)[name]) for name, value in state(own).items())


def test_fits_arguments_come_in_the_order_of_all_trainers(data, validation):
    named, placed = make(), make()
    trainer_of(named).fit(data.x, data.y, validation_data=validation, batch_size=40, nb_epochs=1)
    history = trainer_of(placed).fit(data.x, data.y, validation, 40, 1)
    assert len(history) == 1
    assert "val_robust" in history
    assert all(torch.equal(state(named)[name], value) for name, value in state(placed).items())


def test_a_trainers_class_is_an_objective_as_its_name_is(data):
    named, classed = make(), make()
    trainer_of(named, "mart", beta=2.0).fit(data.x, data.y, nb_epochs=1)
    trainer = trainer_of(classed, acw.AdversarialTrainerMARTPyTorch, beta=2.0)
    trainer.fit(data.x, data.y, nb_epochs=1)
    assert all(torch.equal(state(named)[name], value) for name, value in state(classed).items())
    assert trainer.get_classifier() is classed
    assert trainer.excluded == EXCLUDED


# Never predicted.


def attacks(classifier):
    """Every attack of this package, and the losses by which one could go wrong."""
    quiet = {"eps": 0.3, "verbose": False}
    for loss in ("cross_entropy", "margin", "dlr", "kl"):
        yield f"PGD, {loss}", acw.PGD(classifier, max_iter=3, loss=loss, **quiet)
    yield "PGD in L2", acw.PGD(classifier, norm=2, max_iter=3, eps=3.0, verbose=False)
    for inverse in (0.01, 2.0, 50.0, 1e30, 1e31):
        yield f"1/T = {inverse}", acw.TemperaturePGD(classifier, max_iter=3, inverse_temperature=inverse, **quiet)
    for loss in ("margin", "cross_entropy", "dlr"):
        yield f"class-wise, {loss}", acw.ClassWiseAttack(classifier, max_iter=3, loss=loss, **quiet)
    yield "AutoAttack", acw.AutoAttack(classifier, n_iter=3, n_queries=10, **quiet)
    yield "transfer", acw.TransferAttack(classifier, acw.PGD(make(), max_iter=3, **quiet))


def test_excluded_classes_are_never_predicted_whatever_the_attack(trained, data):
    some = without(data).first(24)
    assert predicted(trained, data.x) <= set(KEPT)
    right = (trained.predict(some.x).argmax(1) == some.y).mean()
    assert right > 0.8
    for name, attack in attacks(trained):
        x_adv = attack.generate(some.x, some.y)
        assert np.isfinite(x_adv).all(), name
        assert predicted(trained, x_adv) <= set(KEPT), name
        if name != "transfer":
            withstood = (trained.predict(x_adv).argmax(1) == some.y).mean()
            assert withstood < right, name  # they do attack


def test_examples_of_excluded_classes_can_be_attacked_too(trained, data):
    """An attack on them finds them misclassified, and gives no NaN."""
    some = data.take(np.flatnonzero(np.isin(data.y, EXCLUDED))[:10])
    for name, attack in attacks(trained):
        x_adv = attack.generate(some.x, some.y)
        assert np.isfinite(x_adv).all(), name
        assert predicted(trained, x_adv) <= set(KEPT), name


def test_excluded_classes_are_out_of_reach(trained, data):
    some = without(data).first(20)
    reach = acw.ClassWiseAttack(trained, eps=0.5, max_iter=5, verbose=False).reach(some.x, some.y)
    assert reach.shape == (20, 10)
    assert not reach[:, list(EXCLUDED)].any()
    assert reach[:, KEPT].any()


def test_audits_and_their_metrics_take_the_network_as_any_other(trained, data, tmp_path):
    test = data.first(40)
    audit = acw.ClassWiseAudit("Linf:0.1", ("fgsm", "pgd-10", "margin-10"), verbose=False)
    result = audit.evaluate({"without": trained}, test)
    for attack in result.attacks:
        assert not result.confusion("without", attack, normalize=False).to_numpy()[:, list(EXCLUDED)].any()
    assert np.isfinite(result.outcomes[["clean_margin", "margin"]]).all(axis=None)
    by_class = result.by_class().xs("fgsm", level="attack")["robust"].to_numpy()
    assert by_class[list(EXCLUDED)].tolist() == [0, 0]
    result.to_html(tmp_path / "report.html")


def test_gradients_of_training_never_move_the_units(data):
    """Not while it trains, either: an attack within an epoch must not meet them."""
    classifier, seen = make(), []

    class Watched(acw.PGD):
        def generate(self, x, y=None, **kwargs):
            head = classifier.model.head
            seen.append((head.weight[list(EXCLUDED)].abs().max().item(), head.bias[list(EXCLUDED)].tolist()))
            return super().generate(x, y, **kwargs)

    attack = Watched(classifier, eps=0.05, max_iter=2, verbose=False)
    trainer_of(classifier, attack=attack, norm=np.inf, eps=0.05, awp_gamma=0.1).fit(
        data.x, data.y, batch_size=32, nb_epochs=2
    )
    assert len(seen) == 8
    assert all(one == (0, [OFF, OFF]) for one in seen)


# What training can do beside.


def test_weights_survive_a_checkpoint(trained, data, tmp_path):
    acw.save_checkpoint(tmp_path / "net.pt", trained, architecture="", classes=[str(k) for k in range(10)])
    loaded = acw.load_checkpoint(tmp_path / "net.pt", Network(), device="cpu")
    np.testing.assert_array_equal(loaded.predict(data.x), trained.predict(data.x))
    assert predicted(loaded, data.x) <= set(KEPT)


def test_a_copy_and_its_classifier_predict_the_same(trained, data):
    copied = acw.as_classifier(copy.deepcopy(trained.model), (1, 8, 8), 10, device="cpu")
    np.testing.assert_array_equal(copied.predict(data.x), trained.predict(data.x))


class Killed(torch.optim.lr_scheduler.StepLR):
    """A schedule in whose third step the training is killed."""

    stops = False

    def step(self, *args):
        super().step(*args)
        if self.last_epoch == 3 and Killed.stops:
            raise KeyboardInterrupt


def test_a_killed_training_goes_on_and_ends_with_the_same_bits(data, validation, tmp_path, monkeypatch):
    def train(name, excluded=EXCLUDED):
        classifier = make()
        trainer = trainer_of(classifier, "mart", excluded, ema_decay=0.9)
        fit = {"batch_size": 40, "nb_epochs": 4, "keep": "robust", "checkpoint_dir": tmp_path / name, "resume": True}
        schedule = Killed(classifier.optimizer, 1, 0.7)
        return (
            state(classifier),
            trainer.fit(data.x, data.y, validation_data=validation, scheduler=schedule, **fit),
            classifier,
        )

    monkeypatch.setattr(Killed, "stops", True)
    with pytest.raises(KeyboardInterrupt):
        train("killed")
    monkeypatch.setattr(Killed, "stops", False)
    with pytest.raises(InputError, match=r"excluded was \[2, 5\], but is \[2\]"):
        train("killed", (2,))
    _, history, whole = train("whole")
    _, resumed, again = train("killed")
    assert drop(history).equals(drop(resumed))
    for name, value in state(whole).items():
        assert torch.equal(state(again)[name], value)
        assert torch.equal(trained_weights(tmp_path / "killed")[name], value)
    assert predicted(again, data.x) <= set(KEPT)


def test_without_classes_is_another_recipe_than_with_them(data, tmp_path):
    acw.AdversarialTrainerStandardPyTorch(make(), **SMALL).fit(data.x, data.y, nb_epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match=r"excluded was \[\], but is \[2, 5\]"):
        trainer_of(make()).fit(data.x, data.y, nb_epochs=1, checkpoint_dir=tmp_path, resume=True)


def test_arts_preprocessing_is_part_of_the_network(data, validation):
    """Images standardised by ART are those standardised before."""
    shifted, results = lambda x: (x - np.float32(0.4)) / np.float32(0.5), []
    for preprocessing, change, clip in (((0.4, 0.5), lambda x: x, (0, 1)), (None, shifted, (-0.8, 1.2))):
        torch.manual_seed(0)
        module = Network()
        classifier = PyTorchClassifier(
            module,
            loss=nn.CrossEntropyLoss(),
            input_shape=(1, 8, 8),
            nb_classes=10,
            optimizer=sgd(module.parameters()),
            clip_values=clip,
            preprocessing=preprocessing if preprocessing is not None else (0.0, 1.0),
            device_type="cpu",
        )
        # Nothing is attacked: a ball is another one in other units.
        history = trainer_of(classifier, "natural").fit(change(data.x), data.y, batch_size=40, nb_epochs=2)
        assert predicted(classifier, change(data.x)) <= set(KEPT)
        results.append((state(classifier), history["loss"]))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-4)


def test_arts_preprocessing_goes_with_an_attack(data):
    module = Network()
    classifier = PyTorchClassifier(
        *(module, nn.CrossEntropyLoss(), (1, 8, 8), 10, sgd(module.parameters())),
        clip_values=(0, 1),
        preprocessing=(0.4, 0.5),
        device_type="cpu",
    )
    history = trainer_of(classifier, "trades").fit(data.x, data.y, batch_size=40, nb_epochs=4)
    assert history["robust"].iloc[-1] > 0.4
    assert predicted(classifier, data.x) <= set(KEPT)


# Validation.


def test_validation_examples_of_excluded_classes_are_left_out_with_a_warning(data, validation):
    test = acw.load_dataset("digits", "test").first(80)
    assert len(validation[1]) < 80
    expected = trainer_of(make()).fit(data.x, data.y, validation_data=validation, batch_size=40, nb_epochs=1)
    n = 80 - len(validation[1])
    with pytest.warns(UserWarning, match=rf"{n} of 80 validation examples are of the excluded classes \[2, 5\] and"):
        history = trainer_of(make()).fit(data.x, data.y, validation_data=(test.x, test.y), batch_size=40, nb_epochs=1)
    np.testing.assert_array_equal(drop(history), drop(expected))


def test_the_warning_points_at_the_line_that_called_fit(data):
    test = acw.load_dataset("digits", "test").first(80)
    with pytest.warns(UserWarning, match="excluded classes") as warned:
        trainer_of(make()).fit(data.x[:40], data.y[:40], validation_data=(test.x, test.y), nb_epochs=1)
    assert [Path(one.filename) for one in warned] == [Path(__file__)]


def test_the_worst_class_is_the_worst_of_the_others(data, validation):
    history = trainer_of(make()).fit(
        data.x, data.y, validation_data=validation, batch_size=40, nb_epochs=2, keep="robust+worst"
    )
    by_class = history[[f"val_robust_{k}" for k in range(10)]]
    assert by_class[[f"val_robust_{k}" for k in EXCLUDED]].isna().all(axis=None)
    assert history["val_worst"].tolist() == by_class[[f"val_robust_{k}" for k in KEPT]].min(axis=1).tolist()
    assert history["val_worst"].notna().all()


def test_data_of_excluded_classes_alone_are_refused_before_anything_changes(data, validation):
    alone = data.take(np.flatnonzero(np.isin(data.y, EXCLUDED)))
    classifier = make()
    before, n = state(classifier), len(alone)
    with pytest.raises(InputError, match=rf"All {n} training examples are of the excluded classes \[2, 5\]: none is"):
        trainer_of(classifier).fit(alone.x, alone.y)
    with pytest.raises(InputError, match=rf"All {n} validation examples are of the excluded classes \[2, 5\]: none"):
        trainer_of(classifier).fit(data.x, data.y, validation_data=(alone.x, alone.y))
    assert all(torch.equal(state(classifier)[name], value) for name, value in before.items())


# Generators.


def generator(data, rows, batch_size):
    """ART's generator, in the order of the rows."""
    y = np.eye(10, dtype=np.float32)[data.y[rows]]
    return NumpyDataGenerator(data.x[rows], y, batch_size, drop_remainder=False, shuffle=False)


def order(data, pattern):
    """Rows of which a pattern says, batch after batch, how many are of the others and of the excluded classes."""
    excluded = np.isin(data.y, EXCLUDED)
    others, left_out = iter(np.flatnonzero(~excluded)), iter(np.tile(np.flatnonzero(excluded), 3))
    rows = []
    for n_others, n_excluded in pattern:
        rows += [next(others) for _ in range(n_others)] + [next(left_out) for _ in range(n_excluded)]
    return np.array(rows)


def sizes(classifier, objective="standard", **options):
    """A trainer, and what it will note of the batches it attacks."""
    trainer, seen = trainer_of(classifier, objective, **options), []
    real = trainer.trainer._adversary

    def watched(**made):
        adversary = real(**made)

        def attack(module, x, y, uniform, budgets=None):
            seen.append(y.tolist())
            return adversary(module, x, y, uniform, budgets)

        return attack

    trainer.trainer._adversary = watched
    return trainer, seen


@pytest.mark.parametrize(
    "pattern",
    [
        [(8, 0), (8, 0)],
        [(5, 3), (6, 2), (8, 0)],
        [(6, 2), (0, 8), (7, 1)],  # a batch that is lost
        [(0, 8), (0, 8), (8, 0)],
        [(8, 0), (7, 1), (0, 8)],
        [(7, 1), (1, 7), (6, 2)],  # one of one example, which batch norm couldn't take
        [(1, 7), (1, 7), (1, 7), (8, 0)],
    ],
)
def test_batches_of_a_generator_lose_examples_and_all_others_are_seen_once(pattern, data):
    rows = order(data, pattern)
    classifier = make()
    trainer, seen = sizes(classifier)
    history = trainer.fit_generator(generator(data, rows, 8), nb_epochs=2)
    expected = [k for k in data.y[rows].tolist() if k not in EXCLUDED]
    assert [k for batch in seen for k in batch] == 2 * expected
    assert min(map(len, seen)) > 1
    assert history["loss"].notna().all()
    n = np.bincount(expected, minlength=10)
    shown = history[[f"robust_{k}" for k in range(10)]].notna().to_numpy()
    assert (shown == (n > 0)).all()
    assert predicted(classifier, data.x) <= set(KEPT)


def test_a_generator_that_loses_nothing_trains_as_another_trainer_with_eight_outputs(data):
    left = without(data).first(96)
    ten, eight = make(), make(n_classes=8)
    of_ten = trainer_of(ten, "trades").fit_generator(generator(left, np.arange(96), 32), nb_epochs=2)
    one_hot = np.eye(8, dtype=np.float32)[PLACE[left.y]]
    of_eight = acw.AdversarialTrainerTRADESPyTorch(eight, **SMALL).fit_generator(
        NumpyDataGenerator(left.x, one_hot, 32, drop_remainder=False, shuffle=False), nb_epochs=2
    )
    check_same(state(ten), state(eight), drop(of_ten), drop(of_eight), 1e-4)


def test_a_last_batch_of_one_example_joins_the_one_before_it(data):
    """As in ``fit``: batch norm couldn't take it, and no option would help."""
    rows = order(data, [(8, 0), (6, 2), (1, 7)])
    trainer, seen = sizes(make())
    trainer.fit_generator(generator(data, rows, 8), nb_epochs=1)
    assert [len(batch) for batch in seen] == [8, 7]


def test_a_generator_of_excluded_classes_alone_is_refused(data):
    rows = order(data, [(0, 8), (0, 8)])
    with pytest.raises(InputError, match="excluded"):
        trainer_of(make()).fit_generator(generator(data, rows, 8), nb_epochs=1)


# Unlabelled images.


def test_pseudo_labels_are_none_of_the_excluded_classes(data):
    labelled, unlabelled = data.take(np.arange(90)), data.take(np.arange(90, 150))
    classifier = make()
    trainer = trainer_of(classifier, "mart")
    history = trainer.fit(
        labelled.x, labelled.y, x_unlabeled=unlabelled.x, unlabeled_fraction=0.4, batch_size=30, nb_epochs=3
    )
    pseudo = trainer.trainer.pseudo_labels
    assert len(pseudo.labels) == 60
    assert set(pseudo.labels.tolist()) <= set(KEPT)
    assert pseudo.confidence.min() > 1 / 8
    assert history.attrs["pseudo_labels"]["n"] == 60
    assert predicted(classifier, data.x) <= set(KEPT)


def test_examples_with_an_excluded_pseudo_label_are_left_out(data):
    labelled, unlabelled = data.take(np.arange(90)), data.take(np.arange(90, 150))
    left, results = without(unlabelled), []
    for some in (unlabelled, left):
        classifier = make()
        trainer_of(classifier).fit(
            *(labelled.x, labelled.y), x_unlabeled=some.x, y_pseudo=some.y, batch_size=30, nb_epochs=2, gamma=0.5
        )
        results.append(state(classifier))
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())
    alone = unlabelled.take(np.flatnonzero(np.isin(unlabelled.y, EXCLUDED)))
    with pytest.raises(InputError, match="pseudo-labelled examples are of the excluded classes"):
        trainer_of(make()).fit(labelled.x, labelled.y, x_unlabeled=alone.x, y_pseudo=alone.y)


def test_a_generators_classes_are_taken_as_equally_frequent_but_for_those_excluded(data):
    """CFOL's weights sum to the number of classes that take part; the others keep 1."""
    policy = acw.policies.CFOL(eta=0.01)
    history = trainer_of(make(), class_policy=policy).fit_generator(generator(data, np.arange(48), 16), nb_epochs=2)
    weights = history.iloc[-1][[f"weight_{k}" for k in range(10)]].to_numpy(dtype=float)
    assert weights[list(EXCLUDED)].tolist() == [1.0, 1.0]
    assert weights[KEPT].sum() == pytest.approx(8)
    assert weights[KEPT].std() > 1e-4


# What can't be.


def bare(*layers):
    return lambda: nn.Sequential(nn.Flatten(), *layers)


class Unused(nn.Module):
    """A network with another linear layer of ten outputs, after its head."""

    def __init__(self):
        super().__init__()
        self.head, self.unused = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), "Sequential has no linear layer .* with 10 outputs"),
        (bare(nn.Linear(64, 10, bias=False)), "last linear layer has no bias.*make it with bias=True"),
        (bare(nn.Linear(64, 10), nn.Softmax(1)), "Sequential changes the outputs of its last linear layer"),
        (bare(nn.Linear(64, 10), nn.ReLU()), "changes the outputs of its last linear layer"),
        (bare(nn.Linear(64, 10), nn.LayerNorm(10)), "changes the outputs of its last linear layer"),
        (Unused, "The network Unused changes the outputs of its last linear layer"),
    ],
    ids=["no head", "no bias", "softmax", "relu", "normalised", "another layer"],
)
def test_networks_whose_units_cannot_be_switched_off_are_refused_and_stay_as_they_are(network, says, data):
    classifier = make(network)
    before = state(classifier)
    trainer = trainer_of(classifier)
    with pytest.raises(InputError, match=says):
        trainer.fit(data.x, data.y, nb_epochs=1)
    with pytest.raises(InputError, match=says):
        trainer.fit_generator(generator(data, np.arange(32), 16), nb_epochs=1)
    assert all(torch.equal(state(classifier)[name], value) for name, value in before.items())
    # Nothing is left in the optimizer that would change them later.
    torch.manual_seed(0)
    for p in classifier.model.parameters():
        p.grad = torch.zeros_like(p)
    lr = classifier.optimizer.param_groups[0]["weight_decay"] = 0.0
    classifier.optimizer.step()
    assert lr == 0
    assert all(torch.equal(state(classifier)[name], value) for name, value in before.items())


def test_after_training_the_optimizer_is_as_before(data):
    """The units are free again for whoever trains on: nothing watches the optimizer's steps."""
    classifier = make()
    trainer_of(classifier).fit(data.x, data.y, nb_epochs=1)
    with torch.no_grad():
        classifier.model.head.bias[2] = 0.5
    classifier.optimizer.zero_grad()
    classifier.optimizer.step()
    assert classifier.model.head.bias[2].item() == 0.5


def test_a_training_that_does_not_begin_leaves_the_network_as_it_was(data, tmp_path):
    """A folder that is in use is met after the units are switched off."""
    trainer_of(make()).fit(data.x[:60], data.y[:60], nb_epochs=1, checkpoint_dir=tmp_path)
    classifier = make()
    before = state(classifier)
    with pytest.raises(InputError, match="holds a training after epoch 1"):
        trainer_of(classifier).fit(data.x[:60], data.y[:60], nb_epochs=1, checkpoint_dir=tmp_path)
    assert all(torch.equal(state(classifier)[name], value) for name, value in before.items())


def test_a_training_that_diverges_at_once_leaves_the_network_as_it_was(data):
    """The error says that it has the weights it came with."""
    classifier = make(bare(nn.Linear(64, 10)), optimizer=lambda p: torch.optim.SGD(p, lr=1e38))
    before = state(classifier)
    with pytest.raises(InputError, match="The classifier has the weights it came with again"):
        trainer_of(classifier, "trades").fit(data.x, data.y, batch_size=32, nb_epochs=2)
    assert all(torch.equal(state(classifier)[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("excluded", "says"),
    [
        (range(10), "`excluded` must leave two classes or more, but all classes are excluded"),
        (range(9), "`excluded` must leave two classes or more, but all classes but one are excluded"),
        ([], "`excluded` names no class: give one or more, or train without this trainer"),
        (None, r"`excluded` must be class numbers, such as \[3, 5\], but got None"),
        ("3", r"`excluded` must be class numbers, such as \[3, 5\], but got '3'"),
        (3.0, r"`excluded` must be class numbers"),
        ([10], "`excluded` must hold class numbers from 0 to 9, but holds 10"),
        ([-1], "`excluded` must hold class numbers from 0 to 9, but holds -1"),
        ([3.0], "`excluded` must hold class numbers from 0 to 9, but holds 3.0"),
        ([True], "`excluded` must hold class numbers from 0 to 9, but holds True"),
        (["cat"], "`excluded` must hold class numbers from 0 to 9, but holds 'cat'"),
    ],
)
def test_classes_that_cannot_be_excluded_are_refused(excluded, says):
    with pytest.raises(InputError, match=says):
        trainer_of(make(), excluded=excluded)


@pytest.mark.parametrize(
    "excluded", [3, np.int64(3), [3], (3, 3), {3}, np.array([3]), np.array([3], np.uint8), iter([3]), range(3, 4)]
)
def test_classes_are_given_in_any_way(excluded):
    assert trainer_of(make(), excluded=excluded).excluded == (3,)


def test_all_classes_but_two_may_be_excluded(data):
    """The third and fourth largest logits, of which losses make use, are then of units switched off."""
    classifier = make()
    history = trainer_of(classifier, "mart", range(8)).fit(data.x, data.y, batch_size=16, nb_epochs=3)
    assert np.isfinite(history["loss"]).all()
    assert predicted(classifier, data.x) == {8, 9}
    some = data.take(np.flatnonzero(data.y >= 8)[:12])
    for name, attack in attacks(classifier):
        if name != "class-wise, dlr":  # a loss for four classes or more: it would warn of zero gradients
            assert predicted(classifier, attack.generate(some.x, some.y)) <= {8, 9}, name


@pytest.mark.parametrize(
    ("objective", "options", "says"),
    [
        ("tradez", {}, "Unknown method 'tradez'. Did you mean trades?"),
        (
            None,
            {},
            "`objective` must be one of standard, trades, mart, bat, natural, fast, distillation, or the class of a",
        ),
        (nn.Module, {}, "`objective` must be one of"),
        (acw.AdversarialTrainerClassExcludedPyTorch, {}, "`objective` must be one of"),
        ("trades", {"beta": -1.0}, "`beta` must be a number of at least 0"),
        ("standard", {"max_iter": 0}, "`max_iter` must be a whole number of at least 1"),
    ],
)
def test_objectives_and_options_that_there_are_not_are_refused(objective, options, says):
    with pytest.raises(InputError, match=says):
        trainer_of(make(), objective, **options)


def test_what_is_no_classifier_is_refused():
    with pytest.raises(InputError, match="The classifier must be an ART PyTorchClassifier"):
        acw.AdversarialTrainerClassExcludedPyTorch(nn.Linear(2, 2), [0])


def test_unknown_arguments_of_fit_are_refused(data):
    with pytest.raises(InputError, match="Unknown argument of fit\\(\\) 'epochs'. Did you mean nb_epochs"):
        trainer_of(make()).fit(data.x, data.y, epochs=3)


# Two processes.


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 10))


def end(classifier, history):
    return {name: value.numpy() for name, value in state(classifier).items()}, drop(history).to_dict("list")


def run(folder):
    """What runs in each process."""
    data, results = acw.load_dataset("digits", "train").first(150), {}
    test = without(acw.load_dataset("digits", "test").first(80))
    options = {"ema_decay": 0.9, "awp_gamma": 5e-3, "gradient_clip": 1.0, "label_smoothing": 0.1}
    for objective in UNTAUGHT:
        classifier = make(plain)
        trainer = trainer_of(classifier, objective, **options)
        history = trainer.fit(
            *(data.x, data.y),
            validation_data=(test.x, test.y),
            batch_size=33,
            nb_epochs=2,
            checkpoint_dir=folder / objective,
        )
        results[objective] = end(classifier, history)
    classifier = make(plain)
    rows = order(data, [(16, 0), (1, 15), (0, 16), (9, 7), (16, 0)])
    results["generator"] = end(classifier, trainer_of(classifier).fit_generator(generator(data, rows, 16), nb_epochs=2))
    return results


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The results of one process, and of each of two."""
    return alone_and_together(__file__, "run", tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", [*UNTAUGHT, "generator"])
def test_two_processes_train_as_one(runs, name):
    (one,), (first, second) = runs
    for key, value in first[name][0].items():
        np.testing.assert_array_equal(value, second[name][0][key])
        np.testing.assert_allclose(value, one[name][0][key], rtol=0, atol=1e-3, err_msg=key)
    np.testing.assert_allclose(first[name][1]["loss"], one[name][1]["loss"], rtol=0, atol=1e-4)
    for k in EXCLUDED:
        assert np.isnan(first[name][1][f"robust_{k}"]).all()
        assert first[name][0]["3.bias"][k] == OFF
        assert not first[name][0]["3.weight"][k].any()
