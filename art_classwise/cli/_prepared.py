"""What ``audit`` and ``plan`` are asked for: models, examples and attacks, from their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_classwise.datasets.catalog import DATASETS

if TYPE_CHECKING:
    from art_classwise.audit.plan import NamedData
    from art_classwise.cli._sources import Sources
    from art_classwise.datasets import Dataset
    from art_classwise.threat import ThreatModel

__all__ = ["Prepared", "named_data", "prepared", "sources_of"]


@dataclass(frozen=True)
class Prepared:
    """What an audit is made of.

    Attributes:
        sources: Where models come from.
        named: How the examples are loaded.
        data: The examples.
        threat: Norm and radius: those given, or usual for the data set.
        options: Of :class:`art_classwise.ClassWiseAudit`, without those about running it; the surrogate as a text.
        surrogate: The source of transfer attacks, as for :meth:`Sources.model`.
        adversaries: What attacks are asked for; None if only corruptions are.
        corruptions: Names of corruptions, with severities.
    """

    sources: Sources
    named: NamedData
    data: Dataset
    threat: ThreatModel
    options: dict[str, Any]
    surrogate: str | None
    adversaries: Any
    corruptions: tuple[str, ...]


def prepared(given: Mapping[str, Any]) -> Prepared:
    """Return what an audit is made of, from the parameters of a command, by their names.

    Raises:
        InputError: An option isn't allowed, names nothing that is there, or doesn't fit the others.
    """
    from art_classwise.attacks import usual_threat
    from art_classwise.audit.corrupted import asked
    from art_classwise.cli._early import attack_names
    from art_classwise.cli._interrupt import command_line
    from art_classwise.metrics import class_groups

    model, surrogate = given["model"], given["surrogate"]
    threat, adversaries, corruptions = asked(given["threat"], attack_names(given["attacks"]), given["corruptions"])
    sources = sources_of(given, "Linf" if threat is None else threat.norm)
    sources.check([*model, *([] if surrogate is None else [surrogate])])
    named = named_data(given)
    data = named.load()
    if given["groups"] is not None:
        class_groups(given["groups"].value, data.classes)  # whether they fit
    ball = usual_threat(data.name) if threat is None else threat
    sources = replace(
        sources, dataset=data.name, norm=ball.norm, input_shape=data.input_shape, n_classes=len(data.classes)
    )
    options = {
        "threat": threat,
        "attacks": adversaries,
        "corruptions": corruptions or None,
        "corruption_dir": _corruption_dir(given, data.name),
        "precision": given["precision"].value,
        "worst_case": given["worst_case"],
        "seed": given["seed"],
        "batch_size": given["batch_size"],
        "checks": given["checks"],
        "command": command_line(),
    }
    return Prepared(sources, named, data, ball, options, surrogate, adversaries, corruptions)


def sources_of(given: Mapping[str, Any], norm: str) -> Sources:
    """Return where models come from, before the data are read, from the parameters of a command, by their names.

    Args:
        given: The parameters.
        norm: RobustBench's threat model.
    """
    from art_classwise.cli._sources import Sources, by_model, numbers_by_model

    device = given["device"]
    return Sources(
        given["dataset"],
        norm,
        given["model_dir"],
        given["unsafe_weights"],
        by_model(given["arch"]),
        numbers_by_model("--mean", given["mean"]),
        numbers_by_model("--std", given["std"]),
        None if device is None else device.value,
    )


def named_data(given: Mapping[str, Any]) -> NamedData:
    """Return how examples are loaded, from the parameters of a command, by their names."""
    from art_classwise.audit.plan import NamedData
    from art_classwise.cli._options import split_names
    from art_classwise.datasets.load import known_name

    classes = split_names(given["class_names"])
    return NamedData(
        name=_absolute(known_name(given["dataset"])),
        root=None if given["data_dir"] is None else str(Path(given["data_dir"]).absolute()),
        classes=classes if classes is None or isinstance(classes, str) else tuple(classes),
        image_size=given["image_size"],
        of_classes=tuple(given["class_"]) if given["class_"] else None,
        n_examples=given["examples"],
    )


def _corruption_dir(given: Mapping[str, Any], dataset: str) -> Path | None:
    """Return the folder of corrupted images: that which was given, or the data folder, if they lie there."""
    from art_classwise.datasets.corruptions import FOLDERS

    root = given["data_dir"]
    if given["corruption_dir"] is not None:
        folder: Path = given["corruption_dir"]
        return folder
    within = None if root is None or dataset not in FOLDERS else Path(root) / FOLDERS[dataset]
    return within if within is not None and within.is_dir() else None


def _absolute(name: str) -> str:
    # A data set's name is one, also where a folder is called so: as load_dataset has it.
    return name if name in DATASETS or not Path(name).exists() else str(Path(name).absolute())
