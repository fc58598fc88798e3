"""Where the models of a command come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError, unknown

if TYPE_CHECKING:
    from art_classwise.audit.plan import ModelSpec

__all__ = ["Sources", "by_model", "numbers_by_model"]

_ALL = "all"
_IN_ROBUSTBENCH = {spec.robustbench for spec in DATASETS.values()}


@dataclass(frozen=True)
class Sources:
    """Where the models of a command come from.

    Attributes:
        dataset: RobustBench's data set, where a model names none: the name of the data, or where they lie.
        norm: RobustBench's threat model.
        model_dir: Folder of RobustBench's weights.
        unsafe_weights: Load RobustBench's files that can run code, too.
        architectures: Of files that don't say their own, by the models' names; that of all others under ``""``.
        mean: What those files' networks want subtracted from images, by the models' names likewise.
        std: What they want them divided by.
        device: Where models lie, ``"cpu"`` or ``"cuda"``; the GPU where there is one, if absent.
        input_shape: (C, H, W) of the data, once they are read.
        n_classes: Of the data.
    """

    dataset: str
    norm: str
    model_dir: Path
    unsafe_weights: bool
    architectures: Mapping[str, str] = field(default_factory=dict)
    mean: Mapping[str, list[float]] = field(default_factory=dict)
    std: Mapping[str, list[float]] = field(default_factory=dict)
    device: str | None = None
    input_shape: tuple[int, ...] | None = None
    n_classes: int | None = None

    def check(self, texts: Sequence[str]) -> None:
        """Check, before data and weights are read, that models may be there.

        Args:
            texts: As for :meth:`models`.

        Raises:
            InputError: A text names no model, no file that is there, or none of RobustBench's models; or an option
                names none of the models.
        """
        from art_classwise.zoo.robustbench import check_model, robustbench_names
        from art_classwise.zoo.weights_files import HUB

        names = [label or _short(source) for label, source in map(_parted, texts)]
        for option, given in (("--arch", self.architectures), ("--mean", self.mean), ("--std", self.std)):
            for name in given:
                if name and name not in names:
                    raise unknown(f"model in {option}", name, names)
        for text in texts:
            _, source = _parted(text)
            zoo, name = _in_zoo(source, self.dataset)
            if not name and not source.startswith(HUB) and not (source and Path(source).exists()):
                if any(source in robustbench_names(zoo, self.norm) for zoo in _IN_ROBUSTBENCH if zoo):
                    raise InputError(f"There is no file {source!r}. Did you mean robustbench:{source}?")
                what = "There is no file" if Path(source).suffix else "Unknown model"
                raise InputError(
                    f"{what} {source!r}. Give a file of weights (with --arch, if `train` didn't write it), "
                    f"robustbench:NAME, or {HUB}ORGANISATION/NAME."
                )
            if name and name != _ALL and zoo in _IN_ROBUSTBENCH:  # a file or folder has a name of its own
                check_model(name, zoo, self.norm)

    def models(self, texts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return models by the names they have in tables, as :meth:`ClassWiseAudit.evaluate` takes them.

        Args:
            texts: Each a file or folder of weights, hf:ORGANISATION/NAME, robustbench:NAME, robustbench:DATASET/NAME or
                robustbench:all, with NAME= before it or not.

        Returns:
            Models, and of a whole leaderboard functions that load them; and the names of the latter, which may be
            lacking.

        Raises:
            InputError: A text names no model, or a name stands twice; or a model named by itself can't be loaded.
        """
        loaders, optional = self.loaders(texts)
        return {name: load if name in optional else load() for name, load in loaders.items()}, optional

    def loaders(self, texts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return functions that load models, in place of the models: see :meth:`models`."""
        specs, optional = self._specs(texts)
        return {name: partial(spec.load, self.device) for name, spec in specs.items()}, optional

    def specs(self, texts: Sequence[str]) -> dict[str, ModelSpec]:
        """Return how models are loaded, in place of the models: see :meth:`models`."""
        return self._specs(texts)[0]

    def _specs(self, texts: Sequence[str]) -> tuple[dict[str, ModelSpec], list[str]]:
        from art_classwise.audit.plan import RobustBenchModel
        from art_classwise.zoo import robustbench_names

        specs: dict[str, ModelSpec] = {}
        optional: list[str] = []
        for text in texts:
            label, source = _parted(text)
            zoo, name = _in_zoo(source, self.dataset)
            found: dict[str, ModelSpec]
            if name != _ALL:
                found = dict([self.spec(text)])
            elif label:
                raise InputError(f"{text!r} gives many models the same name: remove {label}=.")
            else:
                where: dict[str, Any] = {
                    "dataset": zoo,
                    "norm": self.norm,
                    "model_dir": str(Path(self.model_dir).absolute()),
                }
                names = robustbench_names(zoo, self.norm)
                found = {n: RobustBenchModel(name=n, unsafe_weights=self.unsafe_weights, **where) for n in names}
                optional += names
            twice = next((n for n in found if n in specs), None)
            if twice is not None:
                raise InputError(f"Two models are named {twice!r}: rename one, e.g. --model mine={source}")
            specs |= found
        return specs, optional

    def model(self, text: str) -> tuple[str, Any]:
        """Return a model's name and the model.

        Raises:
            InputError: The text names no model, or it can't be loaded.
        """
        name, spec = self.spec(text)
        return name, spec.load(self.device)

    def spec(self, text: str) -> tuple[str, ModelSpec]:
        """Return a model's name and how it is loaded.

        Raises:
            InputError: The text names no model.
        """
        from art_classwise.audit.plan import FileModel, RobustBenchModel
        from art_classwise.zoo.checkpoints import is_checkpoint

        label, source = _parted(text)
        zoo, name = _in_zoo(source, self.dataset)
        if name:
            return label or name, RobustBenchModel(
                name=name,
                dataset=zoo,
                norm=self.norm,
                model_dir=str(Path(self.model_dir).absolute()),
                unsafe_weights=self.unsafe_weights,
            )
        label = label or _short(source)
        given: dict[str, Any] = {"architecture": _of_model(self.architectures, label)}
        if not is_checkpoint(source):  # which says all this itself
            mean, std = _of_model(self.mean, label), _of_model(self.std, label)
            given |= {
                "input_shape": self.input_shape,
                "n_classes": self.n_classes,
                "mean": None if mean is None else tuple(mean),
                "std": None if std is None else tuple(std),
            }
        path = source if source.startswith("hf:") else str(Path(source).absolute())
        return label, FileModel(path=path, **given)


def by_model(texts: Sequence[str] | None) -> dict[str, str]:
    """Return what an option says of models by their names, of ``VALUE`` or ``MODEL=VALUE``; of all others under ``""``.

    Raises:
        InputError: It says two things of one.
    """
    values: dict[str, str] = {}
    for text in texts or ():
        name, separator, value = text.rpartition("=")
        if name in values:
            of = f"the model {name!r}" if separator else "all models: write MODEL=... for one"
            raise InputError(f"Both {values[name]!r} and {value!r} are given for {of}.")
        values[name] = value
    return values


def numbers_by_model(option: str, texts: Sequence[str] | None) -> dict[str, list[float]]:
    """Return numbers with commas between, as :func:`by_model`.

    Raises:
        InputError: They aren't numbers.
    """
    values = {}
    for name, text in by_model(texts).items():
        try:
            values[name] = [float(number) for number in text.split(",")]
        except ValueError:
            raise InputError(
                f"{option} takes a number, or one per channel: 0.4914,0.4822,0.4465, not {text!r}."
            ) from None
    return values


Value = TypeVar("Value")


def _of_model(values: Mapping[str, Value], name: str) -> Value | None:
    return values.get(name, values.get(""))


def _short(source: str) -> str:
    """Return the name of a model that was given none."""
    return source.rpartition("/")[2] if source.startswith("hf:") else Path(source).stem


def _parted(text: str) -> tuple[str, str]:
    """Part NAME=SOURCE; a file may have a "=" in its own name."""
    label, separator, source = text.partition("=")
    return (label, source) if separator and not Path(text).is_file() else ("", text)


def _in_zoo(source: str, dataset: str) -> tuple[str, str]:
    """Return data set and name of one of RobustBench's models; no name for others."""
    kind, _, name = source.partition(":")
    if kind != "robustbench" or not name:
        return dataset, ""
    zoo, slash, short = name.rpartition("/")
    return (zoo if slash else dataset), short
