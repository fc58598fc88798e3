"""Groups of classes: superclasses, of which more can be said than of classes with few examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._core.labels import check_labels, class_number
from art_classwise.errors import InputError, check_name, unknown
from art_classwise.metrics._inputs import check_pair
from art_classwise.metrics.accuracy import class_counts
from art_classwise.metrics.intervals import wilson

__all__ = ["Groups", "class_groups", "group_accuracy", "group_labels"]

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
_MADE_FOR = {"cifar100": "CIFAR-100", "transport-animal": "CIFAR-10 and STL-10"}


def class_groups(groups: Groups, classes: Sequence[str]) -> list[str]:
    """Return the group of each class.

    Args:
        groups: A mapping from every class, by name or number, to its group; or the group of each class, in the order
            of the classes; or ``"cifar100"``, the 20 superclasses of CIFAR-100 (Krizhevsky 2009); or
            ``"transport-animal"``, which parts the classes of CIFAR-10 or STL-10 in two.
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
        if groups not in _BUILT_IN:
            raise unknown("set of groups", groups, _BUILT_IN, hint="Or give a mapping from class to group.")
        table = _BUILT_IN[groups]
        stranger = next((name for name in names if name not in table), None)
        if stranger is not None:
            raise InputError(
                f"The groups {groups!r} are for the classes of {_MADE_FOR[groups]}, of which {stranger!r} is none: "
                "give a mapping from class to group."
            )
        return [table[name] for name in names]
    if isinstance(groups, Mapping):
        return _by_class(groups, names)
    if not hasattr(groups, "__getitem__"):  # a set has no order
        raise InputError(
            f"Groups must be a mapping from class to group, a group for each class, or {' or '.join(_BUILT_IN)}, but "
            f"got {groups!r:.60}."
        )
    if len(groups) != len(names):
        raise InputError(f"There are {len(names)} classes, but {len(groups)} groups: one is needed for each class.")
    for group in groups:
        check_name("group", group)
    return list(groups)


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


def _by_class(groups: Mapping[str, str] | Mapping[int, str], names: Sequence[str]) -> list[str]:
    found: dict[int, str] = {}
    for key, group in groups.items():
        number = class_number(key, names)
        if number in found:
            raise InputError(f"The groups have class {names[number]!r} twice, by name and by number.")
        check_name("group", group)
        found[number] = group
    missing = [name for i, name in enumerate(names) if i not in found]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{len(missing)} of {len(names)} classes have no group: {shown}.")
    return [found[i] for i in range(len(names))]
