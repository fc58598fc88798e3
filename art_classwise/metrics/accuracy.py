"""Accuracy and risks of each class, and of groups of classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._core.labels import check_labels, class_names, class_number
from art_classwise.errors import InputError, check_name, unknown
from art_classwise.metrics._imagenet import IMAGENET, IMAGENET_COARSE
from art_classwise.metrics._inputs import check_outcomes, check_pair
from art_classwise.metrics.intervals import wilson

__all__ = [
    "Groups",
    "class_accuracy",
    "class_counts",
    "class_groups",
    "group_accuracy",
    "group_labels",
    "mean_accuracy",
    "mean_ends",
    "risks",
]


def class_accuracy(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the accuracy of each class with its Wilson interval.

    Args:
        y: True labels, ints (n,).
        y_pred: Predicted labels, ints (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the interval.

    Returns:
        A row per class, in their order: ``n``, ``accuracy``, ``low``, ``high`` (fractions). A class without
        examples has n = 0 and NaN, never 0 %.

    Raises:
        InputError: Labels out of range or of different length, no labels at all, or the wrong number of names.

    Example:
        >>> class_accuracy([0, 0, 1, 1], [0, 1, 1, 1], n_classes=3)[["n", "accuracy"]]
               n  accuracy
        class
        0      2       0.5
        1      2       1.0
        2      0       NaN
    """
    truth, predicted = check_pair(y, y_pred, n_classes)
    return class_counts(truth, truth == predicted, n_classes, classes=classes, confidence=confidence)


def class_counts(
    y: npt.NDArray[np.int64],
    correct: npt.NDArray[np.bool_],
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the share of ``correct`` examples of each class, as :func:`class_accuracy` does."""
    names = class_names(classes, n_classes)
    n = np.bincount(y, minlength=n_classes)
    k = np.bincount(y, weights=correct, minlength=n_classes)
    low, high = wilson(k, n, confidence)
    accuracy = k / np.where(n > 0, n, np.nan)
    return pd.DataFrame({"n": n, "accuracy": accuracy, "low": low, "high": high}, index=pd.Index(names, name="class"))


def mean_accuracy(
    y: npt.ArrayLike, correct: npt.ArrayLike, n_classes: int, *, confidence: float = 0.95
) -> pd.Series[float]:
    """Return the mean of the class accuracies, each class counting alike, with its interval.

    The interval is Wilson's for as many examples as would give a share of this size the variance that the mean has:
    sum_c v_c / n_c / C^2 over the C classes that have examples, v_c the variance within a class (Korn and Graubard 1998
    do so with Clopper and Pearson's). A class of one example takes the v of all classes pooled, and one more wrong
    example is spread over all classes, or classes that are all at 0 or 100 % would tell the mean for certain.

    Args:
        y: True labels, ints (n,).
        correct: Whether each example is right, bool (n,).
        n_classes: Number of classes, C.
        confidence: Coverage of the interval.

    Returns:
        ``mean``, ``low``, ``high``: fractions. Classes without examples don't count.

    Raises:
        InputError: Labels and outcomes don't fit, there are no examples, or the confidence is out of range.

    Example:
        >>> y, correct = [0] * 90 + [1] * 10, [True] * 60 + [False] * 30 + [True] * 8 + [False] * 2
        >>> mean_accuracy(y, correct, 2).round(2).to_dict()
        {'mean': 0.73, 'low': 0.57, 'high': 0.85}
    """
    truth, right = check_outcomes(y, correct, n_classes)
    n = np.bincount(truth, minlength=n_classes)
    k = np.bincount(truth[right], minlength=n_classes)
    mean, low, high = mean_ends(k[n > 0], n[n > 0], confidence)
    return pd.Series({"mean": mean, "low": low, "high": high})


def mean_ends(k: npt.NDArray[np.int64], n: npt.NDArray[np.int64], confidence: float) -> tuple[float, float, float]:
    """Return the mean of k / n, (C,) each, all n above 0, and the ends of :func:`mean_accuracy`."""
    mean = float((k / n).mean())
    squares, free = k * (n - k) / n, n - 1
    pooled = squares.sum() / free.sum() if free.any() else mean * (1 - mean)
    within = np.where(free > 0, squares / np.maximum(free, 1), pooled) + mean * (1 - mean) / (len(n) * n)
    variance = float((within / n).sum()) / len(n) ** 2
    # Of all or none right: as of a sample without classes.
    size = mean * (1 - mean) / variance if variance > 0 else len(n) ** 2 / float((1 / n).sum())
    low, high = wilson(mean * size, size, confidence)
    return mean, float(low), float(high)


Groups = str | Mapping[str, str] | Mapping[int, str] | Sequence[str]
"""Groups of classes, as :func:`class_groups` takes them."""

_CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_TRANSPORT_ANIMAL = {
    "animal": "bird cat deer dog frog horse monkey",
    "transport": "airplane automobile car ship truck",
}
_BUILT_IN = {
    name: {member: group for group, members in groups.items() for member in members.split()}
    for name, groups in {"cifar100": _CIFAR100, "transport-animal": _TRANSPORT_ANIMAL}.items()
}
_BY_NUMBER = {"imagenet": IMAGENET, "imagenet-coarse": IMAGENET_COARSE}
_MADE_FOR = {"cifar100": "CIFAR-100", "transport-animal": "CIFAR-10 and STL-10"}


def class_groups(groups: Groups, classes: Sequence[str]) -> list[str]:
    """Return the group of each class.

    Args:
        groups: A mapping from every class, by name or number, to its group, or a pandas Series with classes as its
            index; or the group of each class, in the order of the classes; or ``"cifar100"``, the 20 superclasses of
            CIFAR-100 (Krizhevsky 2009); or ``"transport-animal"``, which parts the classes of CIFAR-10 or STL-10 in
            two; or ``"imagenet"`` or ``"imagenet-coarse"``, 29 and 7 groups of ImageNet's 1,000 classes, after
            WordNet's hypernyms.
        classes: Names of the C classes.

    Returns:
        C names of groups.

    Raises:
        InputError: A class has no group or two, there is no such class, set of groups or number of groups, or the
            set was made for other classes.

    Example:
        >>> class_groups("transport-animal", ["cat", "ship"])
        ['animal', 'transport']
    """
    names = [str(c) for c in classes]
    if isinstance(groups, str):
        if groups not in (*_BUILT_IN, *_BY_NUMBER):
            known = (*_BUILT_IN, *_BY_NUMBER)
            raise unknown("set of groups", groups, known, hint="Or give a mapping from class to group.")
        if groups in _BY_NUMBER:
            table = _BY_NUMBER[groups]
            if len(names) != len(table):
                raise InputError(
                    f"The groups {groups!r} are for the {len(table):,} classes of ImageNet, in their usual order, but "
                    f"there are {len(names)}: give a mapping from class to group."
                )
            if (at := _out_of_order(names)) is not None:
                raise InputError(
                    f"The groups {groups!r} are for the classes of ImageNet in their usual order, but class {at} is "
                    f"{names[at]!r}: put the classes in order, or give a mapping from class to group."
                )
            return list(table)
        of_name = _BUILT_IN[groups]
        stranger = next((name for name in names if name not in of_name), None)
        if stranger is not None:
            raise InputError(
                f"The groups {groups!r} are for the classes of {_MADE_FOR[groups]}, of which {stranger!r} is none: "
                "give a mapping from class to group."
            )
        return [of_name[name] for name in names]
    if isinstance(groups, Mapping | pd.Series):  # of which a series has its classes in its index
        return _by_class(groups.items(), names)
    if not hasattr(groups, "__getitem__") or isinstance(groups, pd.DataFrame):  # a set has no order
        raise InputError(
            "Groups must be a mapping from class to group, a group for each class, or "
            f"{' or '.join((*_BUILT_IN, *_BY_NUMBER))}, but got {groups!r:.60}."
        )
    if len(groups) != len(names):
        raise InputError(f"There are {len(names)} classes, but {len(groups)} groups: one is needed for each class.")
    for group in groups:
        check_name("group", group)
    return [str(group) for group in groups]


def _out_of_order(names: Sequence[str]) -> int | None:
    """Return the first of ImageNet's classes that isn't where it belongs, if they are called by numbers or ids."""
    if all(name.isdecimal() for name in names):  # sorted as texts: 0, 1, 10, 100, ...
        return next((k for k, name in enumerate(names) if int(name) != k), None)
    if all(name[:1] == "n" and name[1:].isdecimal() for name in names):  # ids, by which the classes are sorted
        return next((k for k, pair in enumerate(itertools.pairwise(names), 1) if pair[0] >= pair[1]), None)
    return None


def group_labels(y: npt.ArrayLike, groups: Groups, classes: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return labels of groups, to be counted as if groups were classes.

    Args:
        y: Labels of classes, ints (n,): true or predicted ones.
        groups: As :func:`class_groups` takes them.
        classes: Names of the classes.

    Returns:
        Ints (n,), the number of each example's group, and the groups' names, sorted.

    Raises:
        InputError: A label is no class, or the groups don't fit the classes.

    Example:
        >>> group_labels([0, 1, 2], "transport-animal", ["cat", "ship", "dog"])
        (array([0, 1, 0]), ['animal', 'transport'])
    """
    names, number_of = _numbered(groups, classes)
    return number_of[check_labels(y, len(np.atleast_1d(y)), len(classes))], names


def group_accuracy(
    y: npt.ArrayLike, y_pred: npt.ArrayLike, groups: Groups, classes: Sequence[str], *, confidence: float = 0.95
) -> pd.DataFrame:
    """Return the accuracy of each group of classes: of finding the class, and of finding the group.

    Both are shares of the group's examples, in which a class with more of them weighs more. The Wilson intervals are
    for examples drawn from the group; drawn class by class, as they mostly are, they are slightly too wide.

    Args:
        y: True labels, ints (n,).
        y_pred: Predicted labels, ints (n,).
        groups: As :func:`class_groups` takes them.
        classes: Names of the classes.
        confidence: Coverage of the intervals.

    Returns:
        A row per group, sorted by name: ``classes``, how many it has; ``n``; ``accuracy``, ``low``, ``high``: of the
        class; ``group_accuracy``, ``group_low``, ``group_high``: of the group. Without examples n is 0, the others NaN.

    Raises:
        InputError: Labels out of range or of different length, no labels at all, or groups that don't fit the classes.

    Example:
        >>> group_accuracy([0, 0, 1], [0, 2, 1], "transport-animal", ["cat", "ship", "dog"])[["accuracy", "classes"]]
                   accuracy  classes
        group
        animal          0.5        2
        transport       1.0        1
    """
    truth, predicted = check_pair(y, y_pred, len(classes))
    names, number_of = _numbered(groups, classes)
    of, found = number_of[truth], number_of[predicted]
    table = class_counts(of, truth == predicted, len(names), classes=names, confidence=confidence)
    table.insert(0, "classes", np.bincount(number_of, minlength=len(names)))
    n = table["n"].to_numpy()
    stayed = np.bincount(of[of == found], minlength=len(names))
    table["group_accuracy"] = stayed / np.where(n > 0, n, np.nan)
    table["group_low"], table["group_high"] = wilson(stayed, n, confidence)
    return table.rename_axis("group")


def _numbered(groups: Groups, classes: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the groups' names, sorted, and the number of each class's group (C,)."""
    names, number_of = np.unique(class_groups(groups, classes), return_inverse=True)
    return names.tolist(), number_of.astype(np.int64)


def _by_class(groups: Iterable[tuple[Any, str]], names: Sequence[str]) -> list[str]:
    found: dict[int, str] = {}
    for key, group in groups:
        number = class_number(key, names)
        if number in found:
            raise InputError(f"The groups have class {names[number]!r} twice: give each class one group.")
        check_name("group", group)
        found[number] = group
    missing = [name for i, name in enumerate(names) if i not in found]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{len(missing)} of {len(names)} classes have no group: {shown}.")
    return [found[i] for i in range(len(names))]


def risks(
    y: npt.ArrayLike,
    clean_correct: npt.ArrayLike,
    withstood: npt.ArrayLike,
    n_classes: int,
    *,
    pooled: bool = False,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the natural, the boundary and the robust risk of each class (Xu et al. 2021, FRL).

    - ``r_nat`` = 1 - clean accuracy: the share that is wrong without attack
    - ``r_bndy`` = clean - robust accuracy: the share that is right without attack, but not under it
    - ``r_rob`` = ``r_nat`` + ``r_bndy``: the share that doesn't withstand

    Args:
        y: True labels, ints (n,).
        clean_correct: Whether each example is right without attack, bool (n,).
        withstood: Whether each withstood the attack, bool (n,); none does that is wrong without one.
        n_classes: Number of classes, C.
        pooled: One row instead of a row per class, of the shares among all examples. The mean over classes, which
            gives each class the same weight, is the mean of the rows without it.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of each Wilson interval.

    Returns:
        A row per class, in their order, or one row ``all`` if pooled: ``n``, and each risk with ``_low`` and
        ``_high`` (fractions). A class without examples has n = 0 and NaN.

    Raises:
        InputError: An example withstood that is wrong without attack, labels and outcomes don't fit, there are no
            examples, names are not as many as classes, or the confidence is out of range.

    Example:
        >>> clean, withstood = [True, True, True, False], [True, False, False, False]
        >>> risks([0, 0, 1, 1], clean, withstood, 2)[["r_nat", "r_bndy", "r_rob"]]
               r_nat  r_bndy  r_rob
        class
        0        0.0     0.5    0.5
        1        0.5     0.5    1.0
    """
    truth, clean = check_outcomes(y, clean_correct, n_classes, name="clean_correct")
    _, robust = check_outcomes(y, withstood, n_classes, name="withstood")
    odd = robust & ~clean
    if odd.any():
        raise InputError(f"Example {int(odd.argmax())} is marked as withstood, but is misclassified without an attack.")
    names = class_names(classes, n_classes)
    if pooled:
        truth, n_classes, names = np.zeros_like(truth), 1, ["all"]
    table = pd.DataFrame(index=pd.Index(names, name="class"))
    for risk, failed in {"r_nat": ~clean, "r_bndy": clean & ~robust, "r_rob": ~robust}.items():
        counted = class_counts(truth, failed, n_classes, confidence=confidence)
        table["n"] = counted["n"].to_numpy()
        for column, end in {"accuracy": "", "low": "_low", "high": "_high"}.items():
            table[risk + end] = counted[column].to_numpy()
    return table
