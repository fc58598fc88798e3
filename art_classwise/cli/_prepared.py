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

__all__ = ["Prepared", "prepared"]


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
    """

    sources: Sources
    named: NamedData
    data: Dataset
    threat: ThreatModel
    options: dict[str, Any]
    surrogate: str | None


def prepared(given: Mapping[str, Any]) -> Prepared:
    """Return what an audit is made of, from the parameters of a command, by their names.

    Raises:
        InputError: An option isn't allowed, names nothing that is there, or doesn't fit the others.
    """
    from art_classwise.attacks import usual_threat
    from art_classwise.audit.plan import NamedData
    from art_classwise.cli._interrupt import command_line
    from art_classwise.cli._options import split_names
    from art_classwise.cli._sources import Sources, by_model, numbers_by_model
    from art_classwise.datasets.load import known_name
    from art_classwise.metrics import class_groups
    from art_classwise.threat import ThreatModel

    threat, model, surrogate = given["threat"], given["model"], given["surrogate"]
    names = [a.strip() for a in given["attacks"].split(",")]
    device = given["device"]
    sources = Sources(
        given["dataset"],
        "Linf" if threat is None else ThreatModel.parse(threat).norm,
        given["model_dir"],
        given["unsafe_weights"],
        by_model(given["arch"]),
        numbers_by_model("--mean", given["mean"]),
        numbers_by_model("--std", given["std"]),
        None if device is None else device.value,
    )
    sources.check([*model, *([] if surrogate is None else [surrogate])])
    classes = split_names(given["class_names"])
    named = NamedData(
        name=_absolute(known_name(given["dataset"])),
        root=None if given["data_dir"] is None else str(Path(given["data_dir"]).absolute()),
        classes=classes if classes is None or isinstance(classes, str) else tuple(classes),
        image_size=given["image_size"],
        of_classes=tuple(given["class_"]) if given["class_"] else None,
        n_examples=given["examples"],
    )
    data = named.load()
    if given["groups"] is not None:
        class_groups(given["groups"].value, data.classes)  # whether they fit
    ball = ThreatModel.parse(threat) if threat is not None else usual_threat(data.name)
    sources = replace(
        sources, dataset=data.name, norm=ball.norm, input_shape=data.input_shape, n_classes=len(data.classes)
    )
    options = {
        "threat": threat,
        "attacks": names[0] if len(names) == 1 else names,
        "precision": given["precision"].value,
        "worst_case": given["worst_case"],
        "seed": given["seed"],
        "batch_size": given["batch_size"],
        "checks": given["checks"],
        "command": command_line(),
    }
    return Prepared(sources, named, data, ball, options, surrogate)


def _absolute(name: str) -> str:
    # A data set's name is one, also where a folder is called so: as load_dataset has it.
    return name if name in DATASETS or not Path(name).exists() else str(Path(name).absolute())
