"""Class exclusion as a study: trained, attacked and counted by hand beside it, interrupted, and side by side.

Run as a script this file does the study alone or under ``torchrun``, for the last tests.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from art.evaluations.evaluation import Evaluation
from processes import alone_and_together
from torch import nn

import art_classwise as acw
from art_classwise import InputError, metrics
from art_classwise.studies import class_exclusion
from art_classwise.trainers import METHODS, trained_weights, training_history
from art_classwise.trainers.recipes import plain_recipe

CLASSES = ("ant", "bee", "cow", "doe")
RECIPE = plain_recipe("standard", threat="Linf:0.2").override(epochs=3, batch_size=16, steps=2, lr=0.1)


def make_data(n, seed, split):
    """Four patterns under noise; "bee" lies between "ant" and "cow", and "doe" apart."""
    rng = np.random.default_rng(seed)
    corners = np.random.default_rng(0).random((3, 1, 4, 4)) * 0.6 + 0.2
    patterns = np.stack([corners[0], corners[:2].mean(0), corners[1], corners[2]])
    y = rng.integers(0, 4, n)
    x = (patterns[y] + rng.normal(0, 0.08, (n, 1, 4, 4))).clip(0, 1).astype(np.float32)
    return acw.Dataset(x, y, CLASSES, name="patterns", split=split, ids=np.arange(500, 500 + n))


TRAIN, TEST = make_data(96, 1, "train"), make_data(120, 2, "test")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))


def study(recipe=RECIPE, made=network, **options):
    return acw.ClassExclusionStudy(made, recipe, **{"attack": "pgd-10", "verbose": False, "device": "cpu", **options})


@pytest.fixture(scope="module")
def result():
    """Every class excluded in turn."""
    return study().evaluate(TRAIN, TEST)


@pytest.fixture
def trainings(monkeypatch):
    """Which classes trainings are without, in the order in which they are begun; None is none."""
    begun = []

    def watch(trainer):
        real = trainer.fit

        def fit(*args, **kwargs):
            begun.append(trainer.excluded[0] if trainer.excluded else None)
            return real(*args, **kwargs)

        trainer.fit = fit
        return trainer

    methods = {
        name: SimpleNamespace(**vars(spec), trainer=lambda *a, _made=spec.trainer, **k: watch(_made(*a, **k)))
        for name, spec in METHODS.items()
    }
    monkeypatch.setattr(class_exclusion, "METHODS", methods)
    return begun


# By hand.


def train_by_hand(excluded=None, recipe=RECIPE, seed=0, start=None, **options):
    """Train a network as a user would, without the study."""
    module = network()
    if start is not None:
        module.load_state_dict(start)
    optimizer = recipe.optimizer(module)
    classifier = acw.as_classifier(module, (1, 4, 4), 4, optimizer=optimizer, device="cpu")
    options = {**recipe.trainer_options(module), "seed": seed, "verbose": False, **options}
    if excluded is None:
        trainer = METHODS[recipe.method].trainer(classifier, **options)
    else:
        trainer = acw.AdversarialTrainerClassExcludedPyTorch(classifier, [excluded], recipe.method, **options)
    schedule, interval = recipe.scheduler(optimizer, int((TRAIN.y != excluded).sum()))
    history = trainer.fit(
        *(TRAIN.x, TRAIN.y),
        batch_size=recipe.batch_size,
        nb_epochs=recipe.epochs,
        scheduler=schedule,
        scheduler_interval=interval,
    )
    return classifier, history


def attack_by_hand(classifier, recipe=RECIPE, excluded=None):
    """Attack the test set, and return predictions without and with it; those of an excluded class are -1."""
    data = TEST if excluded is None else TEST.of_classes([k for k in range(4) if k != excluded])
    audit = acw.ClassWiseAudit(recipe.threat, ["pgd-10"], verbose=False)
    outcomes = audit.evaluate({"net": classifier}, data).outcomes.set_index("example")
    return [outcomes[name].reindex(TEST.ids, fill_value=-1).to_numpy() for name in ("clean_prediction", "prediction")]


def same(history, other):
    pd.testing.assert_frame_equal(history.drop(columns="images_per_second"), other.drop(columns="images_per_second"))


@pytest.fixture(scope="module")
def by_hand():
    """Three networks: of all classes, without "ant", without "bee"; their predictions and histories."""
    found = {}
    for excluded in (None, 0, 1):
        classifier, history = train_by_hand(excluded)
        found[excluded] = (*attack_by_hand(classifier, excluded=excluded), history)
    return found


def test_the_table_is_what_three_networks_say(by_hand):
    result = study().evaluate(TRAIN, TEST, ["ant", "bee"])
    # A control is trained as well; its class is looked up here, and its outcomes by hand.
    assert result.excluded == ("ant", "bee")
    control = CLASSES.index(result.control)
    assert control in (2, 3)
    others = {**by_hand, control: (*attack_by_hand(train_by_hand(control)[0], excluded=control), None)}
    full = by_hand[None][1]
    withstood = {k: (others[k][0] == TEST.y) & (others[k][1] == TEST.y) for k in (0, 1, control)}
    table = result.homing()
    expected = []
    for excluded in (0, 1):
        for c in range(4):
            moved = (TEST.y == c) & (full == excluded)
            if c == excluded or not moved.any():
                continue
            expected.append((CLASSES[c], CLASSES[excluded]))
            row = table.loc[expected[-1]]
            assert row["n"] == moved.sum()
            assert row["homed"] == withstood[excluded][moved].mean()
            if c == control:
                assert np.isnan(row["control_homed"])
            else:
                assert row["control"] == result.control
                assert row["control_homed"] == withstood[control][moved].mean()
                assert row["difference"] == pytest.approx(row["homed"] - row["control_homed"])
    assert table.index.tolist() == expected
    assert table["n"].sum() > 20
    for name, excluded in (("all classes", None), ("without ant", 0), ("without bee", 1)):
        same(result.histories[name], by_hand[excluded][2])


def test_all_networks_begin_alike_and_are_trained_alike(tmp_path):
    """The same seed and recipe: the store's weights are those of trainings by hand."""
    recipe = plain_recipe("trades", threat="Linf:0.2").override(epochs=2, batch_size=16, steps=2, beta=2.0)
    study(recipe, store=tmp_path, seed=3, trainer_options={"ema_decay": 0.9}).evaluate(TRAIN, TEST, [1])
    for folder, excluded in (("all", None), ("without-1", 1)):
        classifier, history = train_by_hand(excluded, recipe, seed=3, ema_decay=0.9)
        stored = acw.zoo.read_checkpoint(tmp_path / folder / "model.pt")
        for name, value in classifier.model.state_dict().items():
            assert torch.equal(stored.state_dict[name], value), name
        same(training_history(tmp_path / folder / "training"), history)
        assert stored.recipe["excluded"] == ([] if excluded is None else ["bee"])
        assert stored.classes == CLASSES
        assert stored.recipe["method"] == "trades"


def test_the_result_names_everything(result):
    assert isinstance(study(), Evaluation)
    names = ["all classes", *(f"without {c}" for c in CLASSES)]
    assert list(result.audit.models) == list(result.histories) == names
    assert list(result.audit.attacks) == ["pgd-10"]
    assert result.audit.classes == CLASSES
    assert result.excluded == CLASSES
    assert result.control is None
    assert all(len(history) == 3 for history in result.histories.values())
    outcomes = result.audit.outcomes
    assert set(outcomes["example"]) == set(TEST.ids)
    for k, c in enumerate(CLASSES):
        rows = outcomes[outcomes["model"] == f"without {c}"]
        assert set(rows["label"]) == set(rows["prediction"]) | {0, 1, 2, 3} - {k} == {0, 1, 2, 3} - {k}
        assert len(rows) == (TEST.y != k).sum()


def test_the_table_is_the_metric_of_the_outcomes(result):
    tables = {name: rows.set_index("example") for name, rows in result.audit.outcomes.groupby("model", observed=True)}
    full = tables["all classes"].loc[TEST.ids]
    withstood = {
        k: tables[f"without {c}"]["withstood"].reindex(TEST.ids, fill_value=False) for k, c in enumerate(CLASSES)
    }
    confusion = metrics.confusion(TEST.y, full["prediction"], 4, normalize=True)
    for pooled in (False, True):
        for correct in (False, True):
            rows = (full["clean_prediction"] == full["label"]).to_numpy() | (not correct)
            expected = metrics.homing(
                *(TEST.y[rows], full["prediction"][rows], {k: v[rows] for k, v in withstood.items()}, confusion),
                pooled=pooled,
                classes=CLASSES,
                confidence=0.8,
            )
            found = result.homing(pooled=pooled, clean_correct=correct, confidence=0.8)
            pd.testing.assert_frame_equal(found, expected)
    assert result.homing(clean_correct=True)["n"].sum() < result.homing()["n"].sum()
    assert result.homing(pooled=True)["n"].sum() == result.homing()["n"].sum()


def test_the_table_as_csv_and_the_outcomes_as_a_page(result, tmp_path):
    result.to_csv(tmp_path / "tables" / "homing.csv")
    read = pd.read_csv(tmp_path / "tables" / "homing.csv", index_col=[0, 1])
    with pytest.raises(InputError, match="is a folder: name a file, such as .*homing.csv"):
        result.to_csv(tmp_path)
    pd.testing.assert_frame_equal(read, result.homing(), check_dtype=False)
    result.audit.to_html(tmp_path / "report.html")
    assert "without cow" in (tmp_path / "report.html").read_text()
    with pytest.raises(InputError, match="`confidence` must be a number between 0 and 1"):
        result.homing(confidence=95)


def test_examples_of_two_classes_home_once_the_one_between_them_is_gone():
    """What was moved from ant or cow into bee is robust without bee, and hardly any of it without another class."""
    recipe = RECIPE.override(threat=acw.ThreatModel("Linf", 0.1), epochs=20, lr=0.2)
    found = study(recipe).evaluate(TRAIN, TEST)
    assert found.audit.summary()["clean"].min() > 0.95
    row = found.homing(pooled=True).loc["bee"]
    assert row["n"] > 20
    assert row["homed"] > 0.5
    assert row["control_homed"] < 0.3
    assert row["difference_low"] > 0.2


# Controls.


def test_a_control_is_chosen_among_the_others_by_confusion(result, trainings):
    """Of the classes not chosen the one least confused with the chosen ones, in the network of all classes."""
    shares = result.audit.confusion("all classes", "pgd-10").to_numpy()
    for chosen in ([0], [1, 2], [3]):
        trainings.clear()
        found = study().evaluate(TRAIN, TEST, chosen)
        together = {u: sum(shares[k, u] + shares[u, k] for k in chosen) for u in range(4) if u not in chosen}
        control = min(together, key=together.get)
        assert found.control == CLASSES[control]
        assert trainings == [None, *chosen, control]
        table = found.homing()
        assert set(table.index.get_level_values("excluded")) <= {CLASSES[k] for k in chosen}
        others = table.index.get_level_values("class") != CLASSES[control]
        assert (table["control"][others] == CLASSES[control]).all()
        assert table["control_homed"].notna().tolist() == others.tolist()


def test_confusion_counts_both_ways_and_over_all_the_chosen_together():
    class Confused:
        """An audit of which only the confusion is asked for."""

        def __init__(self, shares):
            self.shares = shares

        def confusion(self, model, attack):
            assert (model, attack) == ("all classes", "pgd-10")
            return pd.DataFrame(self.shares)

    rng = np.random.default_rng(0)
    for _ in range(20):
        shares = rng.dirichlet(np.full(6, 0.5), 6)
        for chosen in ([0], [5, 1], [2, 3, 4]):
            together = {u: sum(shares[k, u] + shares[u, k] for k in chosen) for u in range(6) if u not in chosen}
            assert study()._unrelated(Confused(shares), chosen, 6) == min(together, key=together.get)


def test_where_all_are_chosen_each_class_has_its_own_control(result):
    shares = result.audit.confusion("all classes", "pgd-10").to_numpy()
    for (c, excluded), control in result.homing()["control"].items():
        i = CLASSES.index(c)
        others = [u for u in range(4) if CLASSES[u] not in (c, excluded)]
        assert control == CLASSES[min(others, key=lambda u: shares[i, u] + shares[u, i])]


@pytest.mark.parametrize("control", ["doe", 3])
def test_a_control_may_be_given(control, trainings):
    found = study(control=control).evaluate(TRAIN, TEST, ["bee"])
    assert trainings == [None, 1, 3]
    assert found.control == "doe"
    assert found.excluded == ("bee",)
    assert list(found.audit.models) == ["all classes", "without bee", "without doe"]
    table = found.homing()
    assert set(table.index.get_level_values("excluded")) == {"bee"}
    assert set(table["control"].dropna()) == {"doe"}


def test_a_control_that_is_given_counts_also_if_it_is_one_of_the_chosen(trainings):
    """Cow is asked for: that another class would be less confused is of no matter."""
    found = study(control="cow").evaluate(TRAIN, TEST, ["ant", "bee", "cow"])
    assert trainings == [None, 0, 1, 2]
    table = found.homing()
    assert set(table.index.get_level_values("excluded")) <= {"ant", "bee", "cow"}
    assert set(table["control"].dropna()) == {"cow"}


# Functions and names as networks, warm starts.


def test_an_architectures_name_builds_the_same_network_each_time(tmp_path):
    data = acw.load_dataset("digits", "train").first(60)
    recipe = RECIPE.override(epochs=1)
    study(recipe, "digits-cnn", store=tmp_path, seed=5).evaluate(data, data, [3])
    begun = acw.build("digits-cnn", (1, 8, 8), 10, seed=5)
    optimizer = recipe.optimizer(begun)
    classifier = acw.as_classifier(begun, (1, 8, 8), 10, optimizer=optimizer, device="cpu")
    trainer = acw.AdversarialTrainerClassExcludedPyTorch(
        classifier, [3], **recipe.trainer_options(begun), seed=5, verbose=False
    )
    schedule, _ = recipe.scheduler(optimizer, 54)
    trainer.fit(data.x, data.y, batch_size=16, nb_epochs=1, scheduler=schedule)
    stored = acw.load_checkpoint(tmp_path / "without-3" / "model.pt", device="cpu")  # its architecture is known
    for name, value in begun.state_dict().items():
        assert torch.equal(stored.model.state_dict()[name], value)


def test_a_class_of_modules_is_a_function_too():
    """Unseeded as it is it gives the same weights each time."""

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(16, 4))

    results = [study(RECIPE.override(epochs=1), Net).evaluate(TRAIN, TEST, [1]).audit.outcomes for _ in range(2)]
    pd.testing.assert_frame_equal(*results)


def test_a_warm_start_goes_on_from_the_network_of_all_classes(tmp_path, trainings):
    warm = study(store=tmp_path, warm_start=True, warm_epochs=1, control="doe")
    found = warm.evaluate(TRAIN, TEST, ["bee"])
    assert trainings == [None, 1, 3]
    assert [len(history) for history in found.histories.values()] == [3, 1, 1]
    whole, _ = train_by_hand()
    for excluded in (1, 3):
        start = whole.model.state_dict()
        classifier, history = train_by_hand(excluded, RECIPE.override(epochs=1), start=start)
        for name, value in trained_weights(tmp_path / f"without-{excluded}" / "training").items():
            assert torch.equal(classifier.model.state_dict()[name], value)
        same(found.histories[f"without {CLASSES[excluded]}"], history)


def test_a_warm_start_trains_as_long_as_the_recipe_says_if_nothing_is_said():
    found = study(warm_start=True).evaluate(TRAIN, TEST, ["bee"])
    assert [len(history) for history in found.histories.values()] == [3, 3, 3]


@pytest.mark.parametrize("schedule", ["decay", "cosine", "one-cycle"])
def test_schedules_end_with_the_training_though_it_has_fewer_steps(schedule, tmp_path):
    """One-cycle counts steps, of which there are fewer without a class."""
    recipe = plain_recipe("natural", threat="Linf:0.1").override(
        epochs=2, batch_size=16, schedule=schedule, decay=((2, 0.1),)
    )
    found = study(recipe, store=tmp_path).evaluate(TRAIN, TEST, [1])
    last = {name: history["learning_rate"].iloc[-1] for name, history in found.histories.items()}
    assert len(set(np.round(list(last.values()), 12))) == 1
    assert set(last.values()) != {0.05}
    assert all(history["robust"].isna().all() for history in found.histories.values())


def test_more_options_reach_the_trainers(tmp_path):
    found = study(trainer_options={"class_policy": acw.policies.Fixed({1: 2.0})}).evaluate(TRAIN, TEST, [0])
    for history in found.histories.values():
        assert set(history["weight_1"]) == {2}


# The store.


def test_a_finished_study_is_read_and_another_class_is_added(tmp_path, trainings):
    first = study(store=tmp_path, control="doe").evaluate(TRAIN, TEST, ["ant"])
    assert trainings == [None, 0, 3]
    again = study(store=tmp_path, control="doe").evaluate(TRAIN, TEST, ["ant"])
    pd.testing.assert_frame_equal(first.homing(), again.homing())
    pd.testing.assert_frame_equal(first.audit.outcomes, again.audit.outcomes)
    assert again.control == "doe"
    for name, history in first.histories.items():
        pd.testing.assert_frame_equal(history, again.histories[name])
    assert trainings == [None, 0, 3]
    more = study(store=tmp_path, control="doe").evaluate(TRAIN, TEST, ["ant", "bee"])
    assert trainings == [None, 0, 3, 1]
    assert more.excluded == ("ant", "bee")


def test_a_store_gives_what_no_store_gives(result, tmp_path):
    stored = study(store=tmp_path / "new" / "folder").evaluate(TRAIN, TEST)
    pd.testing.assert_frame_equal(stored.homing(), result.homing())
    pd.testing.assert_frame_equal(stored.audit.outcomes, result.audit.outcomes)


def test_an_executors_workers_give_what_this_process_gives(tmp_path, trainings):
    """A thread of its own stands for a worker: it is sent bytes, and shares no folder."""
    options = {"store": tmp_path, "warm_start": True, "warm_epochs": 1, "control": "doe"}
    with ThreadPoolExecutor(1) as executor:
        found = study(executor=executor, **options).evaluate(TRAIN, TEST, ["bee"])
    assert trainings == [None, 1, 3]
    expected = study(**options | {"store": None}).evaluate(TRAIN, TEST, ["bee"])
    pd.testing.assert_frame_equal(found.audit.outcomes, expected.audit.outcomes)
    trainings.clear()
    again = study(**options).evaluate(TRAIN, TEST, ["bee"])
    assert trainings == []
    pd.testing.assert_frame_equal(again.homing(), expected.homing())


@pytest.mark.parametrize("where", ["in the second epoch", "before the attack", "while it is attacked"])
def test_an_interrupted_study_goes_on_and_trains_nothing_twice(where, result, tmp_path, trainings, monkeypatch):
    """Killed in the second of five trainings, or after it."""
    seen = []

    def killed(real, when):
        def call(*args, **kwargs):
            seen.append(when)
            if len(seen) == {"in the second epoch": 5, "before the attack": 2, "while it is attacked": 2}[where]:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        if where == "in the second epoch":  # the first training has three
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR
            patch.setattr(scheduler, "step", killed_after_init(scheduler.step, seen))
        elif where == "before the attack":
            patch.setattr(class_exclusion, "save_checkpoint", killed(class_exclusion.save_checkpoint, "saved"))
        else:
            patch.setattr(acw.PGD, "generate", killed(acw.PGD.generate, "attacked"))
        with pytest.raises(KeyboardInterrupt):
            study(store=tmp_path).evaluate(TRAIN, TEST)
    assert trainings == [None, 0]
    done = training_history(tmp_path / "without-0" / "training")
    assert len(done) == (1 if where == "in the second epoch" else 3)
    assert (tmp_path / "all" / "audit" / "manifest.json").exists()
    finished = (tmp_path / "all" / "model.pt").stat().st_mtime_ns
    found = study(store=tmp_path).evaluate(TRAIN, TEST)
    assert trainings == [None, 0, 0, 1, 2, 3]  # the second one goes on: see its weights
    assert (tmp_path / "all" / "model.pt").stat().st_mtime_ns == finished
    pd.testing.assert_frame_equal(found.audit.outcomes, result.audit.outcomes)
    for name, history in found.histories.items():
        same(history, result.histories[name])
        if name == "without ant":  # its first epochs weren't trained again: their times are those from before
            assert history["images_per_second"][: len(done)].tolist() == done["images_per_second"].tolist()


def killed_after_init(step, seen):
    """A scheduler's step that is killed the fifth time: in the second epoch of the second training."""

    def call(self, *args):
        if self.last_epoch >= 0:  # not the one it makes when it is made
            seen.append(self.last_epoch)
            if len(seen) == 5:
                raise KeyboardInterrupt
        return step(self, *args)

    return call


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "seed was 0, but is 1"),
        ({"attack": "fgsm"}, "attack was 'pgd-10', but is 'fgsm'"),
        ({"warm_start": True}, "warm_start was False, but is True"),
        ({"precision": "bf16"}, "precision was 'auto', but is 'bf16'"),
        ({"recipe": RECIPE.override(lr=0.2)}, r"recipe.lr was 0.1, but is 0.2"),
        (
            {"recipe": RECIPE.override(threat=acw.ThreatModel("Linf", 0.1))},
            "recipe.threat was 'Linf:0.2', but is 'Linf:0.1'",
        ),
        ({"trainer_options": {"ema_decay": 0.9}}, "trainer_options.ema_decay was None, but is 0.9"),
        ({"made": "digits-cnn"}, "network was .*a function's.*, but is 'digits-cnn"),
        ({"train": TRAIN.first(90)}, "train was '[0-9a-f]+', but is"),
        ({"test": TEST.first(90)}, "test was '[0-9a-f]+', but is"),
    ],
)
def test_a_store_of_another_study_is_refused_and_the_difference_named(changes, says, tmp_path_factory, finished):
    data = [
        changes.pop(name, whole) if name in changes else whole for name, whole in (("train", TRAIN), ("test", TEST))
    ]
    with pytest.raises(InputError, match=f"holds another study: {says}.*Choose another `store`"):
        study(**changes, store=finished).evaluate(*data, ["ant"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The store of a small study."""
    folder = tmp_path_factory.mktemp("finished")
    study(store=folder, control="doe").evaluate(TRAIN, TEST, ["ant"])
    return folder


def test_networks_of_another_function_are_another_study(finished):
    """Its finished networks must not pass for ours."""

    def other():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))

    with pytest.raises(InputError, match="holds another study: network"):
        study(made=other, store=finished, control="doe").evaluate(TRAIN, TEST, ["ant"])


def test_other_names_of_classes_are_another_study(finished):
    train, test = (acw.Dataset(d.x, d.y, ("a", "b", "c", "d"), ids=d.ids) for d in (TRAIN, TEST))
    with pytest.raises(InputError, match="holds another study: classes"):
        study(store=finished, control="d").evaluate(train, test, ["a"])


def test_a_damaged_store_is_refused(tmp_path):
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(InputError, match=r"study.json is damaged: .*Choose another `store`"):
        study(store=tmp_path).evaluate(TRAIN, TEST)


def test_a_study_that_was_refused_leaves_its_store_to_the_next_one(tmp_path):
    """A mistake in an option must not claim the folder."""
    with pytest.raises(InputError, match="`ema_decay` must be a number"):
        study(store=tmp_path, trainer_options={"ema_decay": 5}).evaluate(TRAIN, TEST, ["ant"])
    study(RECIPE.override(epochs=1), store=tmp_path).evaluate(TRAIN, TEST, ["ant"])


# What can't be.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"made": network()}, "`network` must be an architecture's name or a function that returns a fresh network"),
        ({"made": 3}, "`network` must be an architecture's name or a function"),
        ({"recipe": "fast"}, "`recipe` must be a Recipe, such as .*plain_recipe.*but got 'fast'"),
        ({"attack": "pdg-20"}, "Unknown attack 'pdg-20'. Did you mean pgd-20"),
        ({"attack": "standard"}, "standard"),  # a ladder of many
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"warm_epochs": 3}, "`warm_epochs` needs `warm_start=True`"),
        ({"warm_epochs": 0, "warm_start": True}, "`warm_epochs` must be a whole number of at least 1"),
    ],
)
def test_parameters_out_of_range_are_refused_at_once(arguments, says):
    with pytest.raises(InputError, match=says):
        study(**arguments)


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        study(store=tmp_path / "file")


def test_under_torchrun_a_store_is_needed(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="Under torchrun the processes share a folder: give `store`"):
        study()


def renamed(names):
    return acw.Dataset(TEST.x, TEST.y, names)


@pytest.mark.parametrize(
    ("options", "data", "says"),
    [
        ({}, (TRAIN, renamed(("a", "b", "c", "d")), None), "The data sets have different classes"),
        ({}, (TRAIN, TEST, ["eel"]), "Unknown class 'eel'. Did you mean bee?"),
        ({}, (TRAIN, TEST, [4]), "Unknown class '4'"),
        ({}, (TRAIN, TEST, []), "names no class: give one or more"),
        ({"control": "eel"}, (TRAIN, TEST, ["ant"]), "Unknown class 'eel'"),
        ({"control": "ant"}, (TRAIN, TEST, ["ant"]), "The control 'ant' is the class to exclude: choose another"),
        ({"made": "digits-cn"}, (TRAIN, TEST, ["ant"]), "Unknown architecture 'digits-cn'. Did you mean digits-cnn"),
        (
            {"trainer_options": {"class_policy": acw.policies.WAT()}},
            (TRAIN, TEST, ["ant"]),
            "The class policy WAT needs the class accuracies .*give `validation_data`",
        ),
        (
            {},
            (TRAIN, acw.Dataset(np.zeros((4, 1, 5, 5), np.float32), np.arange(4), CLASSES), ["ant"]),
            r"\(1, 5, 5\)",
        ),
    ],
)
def test_data_and_classes_that_do_not_fit_are_refused_before_anything_is_trained(options, data, says, monkeypatch):
    def step(*args, **kwargs):
        raise AssertionError("it is known before")

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(InputError, match=says):
        study(**options).evaluate(*data)


def test_two_classes_are_too_few():
    two = acw.Dataset(TRAIN.x, TRAIN.y % 2, ("ant", "bee"))
    with pytest.raises(InputError, match="must leave two classes or more"):
        study().evaluate(two, two)


def test_examples_of_the_same_number_cannot_be_told_apart():
    twice = acw.Dataset(TEST.x, TEST.y, CLASSES, ids=np.zeros(len(TEST), int))
    with pytest.raises(InputError, match="ids"):
        study(RECIPE.override(epochs=1)).evaluate(TRAIN, twice, ["ant"])


# Two processes.


def run(folder):
    """What runs in each process: two studies, and what it trained itself."""
    trained, results = [], {}
    real = class_exclusion._Work._run

    def watched(self, excluded):
        trained.append(excluded)
        return real(self, excluded)

    class_exclusion._Work._run = watched
    for name, options in (("cold", {}), ("warm", {"warm_start": True, "warm_epochs": 1})):
        trained.clear()
        found = study(store=folder / name, **options).evaluate(TRAIN, TEST, ["ant", "bee"])
        results[name] = {"outcomes": found.audit.outcomes, "homing": found.homing(), "control": found.control}
        results[name] |= {"histories": found.histories, "trained": list(trained)}
    return results


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The results of one process, and of each of two."""
    return alone_and_together(__file__, "run", tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize("name", ["cold", "warm"])
def test_side_by_side_the_study_has_the_same_outcomes(runs, name):
    (one,), both = runs
    for result in both:
        pd.testing.assert_frame_equal(result[name]["outcomes"], one[name]["outcomes"])
        pd.testing.assert_frame_equal(result[name]["homing"], one[name]["homing"])
        assert result[name]["control"] == one[name]["control"]
        for network_name, history in one[name]["histories"].items():
            same(history, result[name]["histories"][network_name])


@pytest.mark.parametrize("name", ["cold", "warm"])
def test_each_process_trains_its_part_alone(runs, name):
    (one,), (first, second) = runs
    control = CLASSES.index(one[name]["control"])
    assert one[name]["trained"] == [None, 0, 1, control]
    parts = {"cold": ([None, 1, control], [0]), "warm": ([None, 0, control], [1])}[name]
    assert (first[name]["trained"], second[name]["trained"]) == parts


def test_the_store_tells_what_the_study_was(finished):
    told = json.loads((finished / "study.json").read_text())
    assert told["recipe"]["threat"] == "Linf:0.2"
    assert told["attack"] == "pgd-10"
    assert told["seed"] == 0


@pytest.mark.parametrize("value", [3, "dask:2", open])
def test_what_is_no_executor(value):
    with pytest.raises(InputError, match="`executor` must be a concurrent.futures.Executor"):
        study(executor=value)
