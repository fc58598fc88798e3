"""Options that are wrong by themselves, whatever lies on the disk: they are named before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError, check_number, check_seed, check_whole

__all__ = ["CHECKS", "attack_names", "check_given"]


def check_given(given: Mapping[str, Any]) -> None:
    """Check the options of a command one by one, as far as they can be without its data and models.

    A missing file, which costs a look at the disk, and all that only loaded data can tell is left to whoever loads.

    Args:
        given: The command's parameters, by their names; those of other names than :data:`CHECKS` are left alone.

    Raises:
        InputError: An option isn't allowed, or doesn't fit another.
    """
    for name, check in CHECKS.items():
        if given.get(name) is not None:
            check(given)


def attack_names(text: str | None) -> str | list[str] | None:
    """Return names of attacks with commas between as a list; one alone, which may be a ladder's, as it is."""
    names = None if text is None else [name.strip() for name in text.split(",")]
    return names[0] if names is not None and len(names) == 1 else names


def _dataset(given: Mapping[str, Any]) -> None:
    from art_classwise.datasets.load import check_name

    check_name(given["dataset"])


def _class_names(given: Mapping[str, Any]) -> None:
    from art_classwise.cli._options import split_names
    from art_classwise.datasets.class_names import check_given_names
    from art_classwise.datasets.load import known_name

    check_given_names(split_names(given["class_names"]), known_name(given["dataset"]))


def _known_classes(given: Mapping[str, Any]) -> Sequence[str]:
    """Return the class names of the data set, as far as they are known before it is loaded."""
    from art_classwise.cli._options import split_names
    from art_classwise.datasets.load import known_name

    name, names = known_name(given["dataset"]), split_names(given.get("class_names"))
    if name in DATASETS:
        return DATASETS[name].class_names
    return DATASETS[names].class_names if isinstance(names, str) and names in DATASETS else ()


def _of_classes(option: str) -> Callable[[Mapping[str, Any]], None]:
    def check(given: Mapping[str, Any]) -> None:
        from art_classwise._core.labels import class_number

        classes = _known_classes(given)
        for name in given[option] if classes else ():
            class_number(name, classes)

    return check


def _groups(given: Mapping[str, Any]) -> None:
    from art_classwise.metrics import class_groups

    if classes := _known_classes(given):
        class_groups(given["groups"].value, classes)


def _policy(given: Mapping[str, Any]) -> None:
    from art_classwise.cli._train_data import class_policy_of

    if classes := _known_classes(given):
        class_policy_of(given["class_policy"], classes, validates=True)


def _attacks(given: Mapping[str, Any]) -> None:
    """Check what an audit attacks by: threat, attacks and corruptions belong together."""
    from art_classwise.attacks.ladder import LATER, ladder
    from art_classwise.audit.corrupted import asked
    from art_classwise.datasets.load import loaded_name
    from art_classwise.studies.norms import parse_several
    from art_classwise.threat import ThreatModel

    if "attacks" not in given:  # a training, which has one threat model
        ThreatModel.parse(given["threat"])
        return
    # Of several radii each is attacked alike.
    threat = None if given["threat"] is None else parse_several(given["threat"])[0]
    found = asked(threat, attack_names(given["attacks"]), given["corruptions"])
    if found.attacks is not None:
        surrogate = None if given["surrogate"] is None else LATER
        ladder(
            found.attacks,
            found.threat,
            dataset=loaded_name(given["dataset"]),
            surrogate=surrogate,
        )


def _architectures(given: Mapping[str, Any]) -> None:
    from art_classwise.cli._sources import by_model
    from art_classwise.zoo.architectures import check_architecture

    texts = given["arch"]
    names: Iterable[str] = [texts] if isinstance(texts, str) else by_model(texts).values()
    for name in names:
        check_architecture(name)


def _numbers(option: str) -> Callable[[Mapping[str, Any]], None]:
    def check(given: Mapping[str, Any]) -> None:
        from art_classwise.cli._sources import numbers_by_model

        numbers_by_model(f"--{option}", given[option])

    return check


def _engine(given: Mapping[str, Any]) -> None:
    from art_classwise._core.executors import check_engine

    if given["on"] is None:
        raise InputError("--slurm is for --on slurm.")
    check_engine(given["on"], given["slurm"] or ())


def _whole(name: str, parameter: str, least: int) -> Callable[[Mapping[str, Any]], object]:
    return lambda given: check_whole(name, given[parameter], least)


def _unlabeled(given: Mapping[str, Any]) -> None:
    from art_classwise.cli._train_data import REST
    from art_classwise.datasets.load import check_unlabeled_name

    if given["unlabeled"] != REST:
        check_unlabeled_name(given["unlabeled"], given["pseudo_labels"])


def _latex(given: Mapping[str, Any]) -> None:
    from art_classwise._core.files import check_output_file

    check_output_file(given["latex"], "tables.tex")


_Check: TypeAlias = Callable[[Mapping[str, Any]], object]

CHECKS: Mapping[str, _Check] = {
    "dataset": _dataset,
    "class_names": _class_names,
    "image_size": _whole("image_size", "image_size", 1),
    "examples": _whole("n_examples", "examples", 1),
    "imbalance": lambda given: check_number("imbalance", given["imbalance"], 0, 1, above=True),
    "class_": _of_classes("class_"),
    "exclude": _of_classes("exclude"),
    "groups": _groups,
    "class_policy": _policy,
    "threat": _attacks,
    "attacks": _attacks,
    "corruptions": _attacks,
    "arch": _architectures,
    "mean": _numbers("mean"),
    "std": _numbers("std"),
    "validation": _whole("--validation", "validation", 0),
    "labels": _whole("--labels", "labels", 1),
    "unlabeled": _unlabeled,
    "gamma": lambda given: check_number(
        "gamma", given["gamma"], 0, math.inf, below=True, words="of at least 0, and finite"
    ),
    "tau": lambda given: check_number("--normalize-head", given["tau"], 0, 1),
    "workers": _whole("num_workers", "workers", 0),
    "batch_size": _whole("batch_size", "batch_size", 1),
    "seed": lambda given: check_seed(given["seed"]),
    "latex": _latex,
    "on": _engine,
    "slurm": _engine,
}
"""What is checked, by the names of parameters, in the order of the help."""
