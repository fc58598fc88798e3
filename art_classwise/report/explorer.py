"""Each class by itself: how every model fares on it, what it is taken for, and attacked images of it.

The same parts stand on the report page and in a notebook, where they need neither scripts nor widgets: a class opens
when it is clicked.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.attacked_images import AttackedImage
from art_classwise.audit.result import AuditResult
from art_classwise.errors import InputError, unknown
from art_classwise.report.data import ClassData, ModelData, class_order, report_data
from art_classwise.report.tables import percent, printable, template

__all__ = ["ClassView", "Explored", "Explorer", "Shot", "explored", "explorer"]

_MOST_MODELS = 8
_MOST_CLASSES = 100
_MOST_TAKEN = 3
_SHOWN_IN_FULL = 0.99  # of the values that an attack changed


class Shot(NamedTuple):
    """An attacked image of a class: PNGs in data URLs, and what is said of them.

    Attributes:
        original: The image.
        change: The perturbation, magnified, on grey.
        attacked: What the network was asked about.
        width: Of the image in pixels.
        height: Likewise.
        example: Its number in the data set.
        model: Name of the model.
        attack: Name of the attack.
        taken_for: Name of the class predicted under attack.
    """

    original: str
    change: str
    attacked: str
    width: int
    height: int
    example: int
    model: str
    attack: str
    taken_for: str


class Taken(NamedTuple):
    """How many examples of a class are taken for another one under attack."""

    name: str
    n: int


class OfModel(NamedTuple):
    """One model on one class."""

    model: ModelData
    numbers: ClassData
    taken: tuple[Taken, ...]


@dataclass(frozen=True)
class ClassView:
    """One class.

    Attributes:
        name: Its name.
        n: Number of its examples, the largest of any model.
        models: The models on it, the most robust first.
        shots: Attacked images.
    """

    name: str
    n: int
    models: tuple[OfModel, ...]
    shots: tuple[Shot, ...]

    @property
    def lowest(self) -> float:
        """The lowest robust accuracy of a model."""
        return min(one.numbers.robust.value for one in self.models)

    @property
    def highest(self) -> float:
        """The highest robust accuracy of a model."""
        return max(one.numbers.robust.value for one in self.models)


@dataclass(frozen=True)
class Explored:
    """Classes to be shown.

    Attributes:
        classes: The weakest first, all models together; those without examples aren't among them.
        n_classes: How many have examples.
        named: Whether the classes were chosen by their names.
        n_models: How many models there are; the most robust are shown.
        magnified: By what the changes in the images are multiplied.
        cut_off: Whether some changes are larger than can be shown then.
        has_images: Whether any class has an image.
        overall: What accuracies are under: ``"all attacks"``, or of corruptions alone ``"mean corruption"``.
    """

    classes: tuple[ClassView, ...]
    n_classes: int
    named: bool
    n_models: int
    magnified: int
    cut_off: bool
    has_images: bool
    overall: str


def explored(result: AuditResult, classes: Sequence[str] | None = None, most: int = _MOST_CLASSES) -> Explored:
    """Return what is shown of each class.

    Args:
        result: The audit.
        classes: Names of the classes to show; if absent, the weakest.
        most: How many, if they aren't named.

    Raises:
        InputError: A name is no class.
    """
    order = class_order(result)
    if classes is not None:
        named = [classes] if isinstance(classes, str) else list(classes)
        for name in named:
            if name not in result.classes:
                raise unknown("class", name, result.classes)
        chosen = tuple(name for name in order if name in named)
        if not chosen:
            raise InputError("None of these classes has an example.")
    else:
        chosen = order[:most]
    models = report_data(result).models[:_MOST_MODELS]
    numbers = {model.name: {one.name: one for one in model.classes} for model in models}
    taken = {model.name: _taken(result, model.name) for model in models}
    images = [one for one in result.images if one.model in result.models]
    factor, cut_off = _factor(images)
    shots = {name: [one for one in images if result.classes[one.label] == name] for name in chosen}
    views = [
        ClassView(
            name,
            max(numbers[model.name][name].n for model in models),
            tuple(OfModel(m, numbers[m.name][name], taken[m.name].get(name, ())) for m in models),
            tuple(_shot(one, factor, result.classes) for one in shots[name]),
        )
        for name in chosen
    ]
    has_images = any(view.shots for view in views)
    return Explored(
        tuple(views),
        len(order),
        classes is not None,
        len(result.models),
        factor,
        cut_off,
        has_images,
        result.overall,
    )


def _taken(result: AuditResult, model: str) -> dict[str, tuple[Taken, ...]]:
    """Return what each class is taken for most often under attack."""
    counts = result.confusion(model, WORST_CASE, normalize=False).to_numpy().copy()
    np.fill_diagonal(counts, 0)
    first = np.argsort(-counts, axis=1, kind="stable")[:, :_MOST_TAKEN]
    return {
        name: tuple(Taken(result.classes[j], int(counts[i, j])) for j in first[i] if counts[i, j])
        for i, name in enumerate(result.classes)
    }


def _factor(images: Sequence[AttackedImage]) -> tuple[int, bool]:
    """Return by what changes are multiplied, and whether that cuts some off: of L2, a few pixels change far more."""
    sizes = np.concatenate([np.abs(_change(one)).ravel() for one in images] or [np.zeros(1, dtype=np.int64)])
    changed = sizes[sizes > 0]
    if not len(changed):
        return 1, False
    factor = max(127 // int(np.quantile(changed, _SHOWN_IN_FULL, method="higher")), 1)
    return factor, bool(factor * changed.max() > 127)


def _change(image: AttackedImage) -> npt.NDArray[np.int64]:
    return image.attacked.astype(np.int64) - image.original


def _shot(image: AttackedImage, factor: int, classes: Sequence[str]) -> Shot:
    change = (128 + factor * _change(image)).clip(0, 255).astype(np.uint8)
    original, magnified, attacked = map(_png, (image.original, change, image.attacked))
    _, height, width = image.original.shape
    taken_for = classes[image.prediction]
    return Shot(original, magnified, attacked, width, height, image.example, image.model, image.attack, taken_for)


def _png(levels: npt.NDArray[np.uint8]) -> str:
    """Return an image (C, H, W) as a data URL."""
    from PIL import Image

    pixels = levels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Explorer:
    """Classes of an audit to be opened one by one, at the end of a notebook's cell.

    In a Python shell it is a line per class.
    """

    def __init__(self, shown: Explored) -> None:
        self._shown = shown

    def _repr_html_(self) -> str:
        return template("explorer.html.j2").render(explored=self._shown, alone=True)

    def __repr__(self) -> str:
        lines = [f"{len(self._shown.classes)} of {self._shown.n_classes} classes, the weakest first:"]
        for one in self._shown.classes:
            of = ", ".join(f"{m.model.name} {percent(m.numbers.robust.value)} %" for m in one.models)
            lines.append(printable(f"{one.name} ({one.n}): {of}"))
        return "\n".join(lines)


def explorer(result: Any, classes: Sequence[str] | None = None) -> Explorer:
    """Return classes of an audit to be opened one by one: see :meth:`art_classwise.AuditResult.explore`."""
    return Explorer(explored(result, classes))
