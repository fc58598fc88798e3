"""Groups of classes: who belongs where, and what is counted by group."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score
from statsmodels.stats.proportion import proportion_confint

from art_classwise import InputError
from art_classwise.datasets import DATASETS
from art_classwise.metrics.accuracy import _BUILT_IN, class_accuracy, class_groups, group_accuracy, group_labels

# The coarse labels that CIFAR-100's files give its classes, whose numbers go by the alphabet, as the superclasses' do.
COARSE = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15),
    *(0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19),
    *(18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
]
CLASSES = ["ant", "bee", "cow", "doe", "elk"]
INSECTS = {"ant": "insect", "bee": "insect", "cow": "tame", "doe": "wild", "elk": "wild"}
Y = np.random.default_rng(0).integers(0, 5, 300)
Y_PRED = np.where(np.random.default_rng(1).random(300) < 0.6, Y, np.random.default_rng(2).integers(0, 5, 300))


def test_cifar100s_superclasses_are_those_of_its_files():
    classes = sorted(_BUILT_IN["cifar100"])
    labels, names = group_labels(np.arange(100), "cifar100", classes)
    assert labels.tolist() == COARSE
    assert len(names) == 20
    assert class_groups("cifar100", ["whale", "lawn_mower"]) == ["aquatic_mammals", "vehicles_2"]


def test_transport_and_animals():
    animals = {"bird", "cat", "deer", "dog", "frog", "horse", "monkey"}
    for classes in (DATASETS["cifar10"].class_names, DATASETS["stl10"].class_names):
        groups = class_groups("transport-animal", classes)
        assert groups == ["animal" if c in animals else "transport" for c in classes]
        assert groups.count("transport") == 4


@pytest.mark.parametrize(
    "groups",
    [
        INSECTS,
        dict(reversed(INSECTS.items())),
        dict(enumerate(INSECTS.values())),
        list(INSECTS.values()),
        np.array(list(INSECTS.values())),
        pd.Series(INSECTS),
        pd.Series(INSECTS)[::-1],
        pd.Series(list(INSECTS.values())),
    ],
    ids=["name", "another order", "number", "a list", "an array", "a series", "one in another order", "by its numbers"],
)
def test_groups_may_be_given_in_several_ways(groups):
    assert class_groups(groups, CLASSES) == list(INSECTS.values())


def test_a_class_named_by_a_digit_is_meant_by_its_name():
    assert class_groups({0: "round", 1: "straight"}, ["1", "0"]) == ["straight", "round"]


def test_labels_of_groups_count_as_classes_do():
    labels, names = group_labels(Y, INSECTS, CLASSES)
    assert names == ["insect", "tame", "wild"]
    assert [names[k] for k in labels] == [INSECTS[CLASSES[k]] for k in Y]
    predicted, _ = group_labels(Y_PRED, INSECTS, CLASSES)
    table = class_accuracy(labels, predicted, 3, classes=names)
    assert table["accuracy"].to_numpy() == pytest.approx(recall_score(labels, predicted, average=None))


def test_accuracy_of_the_class_and_of_the_group():
    table = group_accuracy(Y, Y_PRED, INSECTS, CLASSES, confidence=0.9)
    assert table["classes"].to_dict() == {"insect": 2, "tame": 1, "wild": 2}
    group = np.array([INSECTS[c] for c in CLASSES])
    for name, row in table.iterrows():
        own = group[Y] == name
        for k, columns in (
            ((Y == Y_PRED)[own].sum(), ["accuracy", "low", "high"]),
            ((group[Y] == group[Y_PRED])[own].sum(), ["group_accuracy", "group_low", "group_high"]),
        ):
            interval = proportion_confint(k, own.sum(), alpha=0.1, method="wilson")
            assert row[columns].tolist() == pytest.approx([k / own.sum(), *interval])
        assert row["n"] == own.sum()
    assert (table["group_accuracy"] >= table["accuracy"]).all()
    assert table.loc["tame", "group_accuracy"] == table.loc["tame", "accuracy"]


def test_one_group_per_class_is_class_accuracy():
    table = group_accuracy(Y, Y_PRED, CLASSES, CLASSES)
    expected = class_accuracy(Y, Y_PRED, 5, classes=CLASSES)
    assert table[["n", "accuracy", "low", "high"]].to_numpy() == pytest.approx(expected.to_numpy())


def test_a_group_without_examples_is_nan():
    table = group_accuracy([0, 1], [0, 0], INSECTS, CLASSES)
    assert table.loc["wild", "n"] == 0
    assert table.loc["wild"].drop(["n", "classes"]).isna().all()


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ("cifar", "Unknown set of groups 'cifar'. Did you mean cifar100"),
        ("cifar100", "for the classes of CIFAR-100, of which 'ant' is none"),
        ("transport-animal", "for the classes of CIFAR-10 and STL-10, of which 'ant' is none"),
        (None, "Groups must be a mapping from class to group, .* but got None"),
        (set("abcde"), "Groups must be a mapping .* but got {"),
        (pd.Series(INSECTS).to_frame(), "Groups must be a mapping "),
        (5, "Groups must be a mapping .* but got 5"),
        ({"ant": "insect"}, "4 of 5 classes have no group: bee, cow, doe, elk"),
        (INSECTS | {"cows": "tame"}, "Unknown class 'cows'. Did you mean cow"),
        (dict.fromkeys(range(6), "all"), "Unknown class '5'"),
        (INSECTS | {0: "insect"}, "'ant' twice"),
        (pd.Series([*INSECTS.values(), "wild"], index=[*INSECTS, "elk"]), "'elk' twice"),
        (pd.Series(INSECTS)[:3], "2 of 5 classes have no group: doe, elk"),
        (pd.Series(INSECTS).rename({"elk": "eel"}), "Unknown class 'eel'"),
        (["a", "b"], "5 classes, but 2 groups"),
        (INSECTS | {"elk": ""}, "group name must be a non-empty string"),
        ([1, 1, 2, 2, 2], "group name must be a non-empty string"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, says):
    for call in (
        lambda: class_groups(groups, CLASSES),
        lambda: group_labels(Y, groups, CLASSES),
        lambda: group_accuracy(Y, Y_PRED, groups, CLASSES),
    ):
        with pytest.raises(InputError, match=says):
            call()


def test_of_many_classes_without_a_group_a_few_are_named():
    with pytest.raises(InputError, match=r"99 of 100 classes have no group: c1, c2, c3, c4, c5, \.\.\.\.$"):
        class_groups({"c0": "a"}, [f"c{i}" for i in range(100)])


@pytest.mark.parametrize("groups", ["imagenet", "imagenet-coarse"])
def test_imagenets_groups_need_its_classes_in_order(groups):
    numbers, ids = [str(k) for k in range(1000)], [f"n{k:08}" for k in range(0, 2000, 2)]
    assert class_groups(groups, ids) == class_groups(groups, numbers)
    with pytest.raises(InputError, match="in their usual order, but class 2 is '10'"):
        class_groups(groups, sorted(numbers))
    ids[7], ids[8] = ids[8], ids[7]
    with pytest.raises(InputError, match="in their usual order, but class 8 is 'n00000014'"):
        class_groups(groups, ids)
    with pytest.raises(InputError, match="for the 1,000 classes of ImageNet, in their usual order, but there are 725"):
        class_groups(groups, numbers[:725])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: group_accuracy([], [], INSECTS, CLASSES), "at least one example"),
        (lambda: group_accuracy([0, 1], [0], INSECTS, CLASSES), "differ in length"),
        (lambda: group_labels([0, 5], INSECTS, CLASSES), "Label 5 of example 1 is outside"),
        (lambda: group_labels(3, INSECTS, CLASSES), "must be indices"),
        (lambda: group_accuracy([0], [0], INSECTS, CLASSES, confidence=1), "between 0 and 1"),
    ],
)
def test_bad_labels_are_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize("groups", ["imagenet", "imagenet-coarse"])
def test_imagenets_groups_hold_what_they_say(groups):
    from torchvision.models import ResNet18_Weights

    of = dict(
        zip(
            ResNet18_Weights.DEFAULT.meta["categories"],
            class_groups(groups, [str(i) for i in range(1000)]),
            strict=False,
        )
    )
    expected = {
        "tench": "fish", "puffer": "fish", "cock": "bird", "albatross": "bird", "flamingo": "bird", "Chihuahua": "dog",
        "Mexican hairless": "dog", "tabby": "domestic_cat", "lion": "big_cat", "gorilla": "primate",
        "zebra": "ungulate", "tarantula": "arachnid_and_other_arthropod", "bullfrog": "amphibian",
        "box turtle": "other_reptile", "thunder snake": "snake", "monarch": "insect",
        "grey whale": "marine_mammal", "otter": "small_carnivore",
        "African elephant": "other_mammal", "school bus": "vehicle", "tank": "vehicle", "cello": "musical_instrument",
        "sombrero": "clothing", "abacus": "other_artifact", "toilet tissue": "other_artifact", "pizza": "food",
        "volcano": "landscape", "daisy": "plant_and_fungus", "bolete": "plant_and_fungus", "scuba diver": "person",
        "starfish": "other_invertebrate", "isopod": "crustacean",
    }  # fmt: skip
    coarse = {
        "big_cat": "mammal",
        "dog": "mammal",
        "bird": "bird",
        "snake": "reptile_and_amphibian",
        "vehicle": "artifact",
    }
    for name, group in expected.items():
        if groups == "imagenet":
            assert of[name] == group, name
        else:
            assert of[name] == coarse.get(group, of[name]), name
    assert len(set(of.values())) == (29 if groups == "imagenet" else 7)
    with pytest.raises(InputError, match="for the 1,000 classes of ImageNet"):
        class_groups(groups, ["cat", "dog"])
