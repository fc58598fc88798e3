"""The plan of an audit: how its models, data and attacks are loaded, by whichever process computes, and its units."""

from __future__ import annotations

import base64
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from art.estimators.estimator import BaseEstimator
from pydantic import Field
from torch import nn

from art_classwise._core.pickles import pickled, unpickled
from art_classwise._core.records import Record
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.datasets import Dataset, load_dataset
from art_classwise.errors import InputError
from art_classwise.zoo import load_checkpoint, load_robustbench
from art_classwise.zoo.architectures import runs_code

__all__ = [
    "CLEAN_NAME",
    "DataSpec",
    "FileModel",
    "ModelSpec",
    "NamedData",
    "PickledAttacks",
    "PickledData",
    "PickledModel",
    "Plan",
    "RobustBenchModel",
    "Task",
    "data_spec",
    "model_spec",
    "tasks",
]

CLEAN_NAME = "clean"
"""What outcomes without attack are filed under."""


class RobustBenchModel(Record):
    """One of RobustBench's models: see :func:`art_classwise.load_robustbench`.

    Attributes:
        name: Its name there.
        dataset: RobustBench's data set.
        norm: RobustBench's threat model.
        model_dir: Folder of the weights.
        unsafe_weights: Load a file that can run code, too.
    """

    kind: Literal["robustbench"] = "robustbench"
    name: str
    dataset: str
    norm: str
    model_dir: str = "models"
    unsafe_weights: bool = False

    @property
    def runs_code(self) -> bool:
        """Whether loading it runs code that isn't of installed packages."""
        return self.unsafe_weights

    def load(self, device: str | None = None) -> Any:
        """Return the model as an ART classifier.

        Args:
            device: As for :func:`art_classwise.as_classifier`.

        Raises:
            InputError: It can't be loaded.
        """
        placed: dict[str, Any] = {} if device is None else {"device": device}
        return load_robustbench(
            self.name, self.dataset, self.norm, self.model_dir, unsafe_weights=self.unsafe_weights, **placed
        )


class FileModel(Record):
    """A file of weights: see :func:`art_classwise.load_checkpoint`.

    Attributes:
        path: The file, or ``"hf:ORGANISATION/NAME"``.
        architecture: A name that :func:`art_classwise.build` knows; None for a checkpoint that says its own.
        input_shape: (C, H, W); None for a checkpoint that says it.
        n_classes: Number of classes, likewise.
        mean: What the network wants subtracted from images in [0, 1].
        std: What it then wants them divided by.
        key: Where in the file the weights are.
    """

    kind: Literal["file"] = "file"
    path: str
    architecture: str | None = None
    input_shape: tuple[int, ...] | None = None
    n_classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    key: str | None = None

    @property
    def runs_code(self) -> bool:
        """Whether loading it runs code that isn't of installed packages."""
        return self.architecture is not None and runs_code(self.architecture)

    def load(self, device: str | None = None) -> Any:
        """Return the model as an ART classifier; see :meth:`RobustBenchModel.load`."""
        given = {
            name: getattr(self, name) for name in ("architecture", "input_shape", "n_classes", "mean", "std", "key")
        }
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        known |= {} if device is None else {"device": device}
        return load_checkpoint(self.path, **known)


class _Pickled(Record):
    content: str

    @property
    def runs_code(self) -> bool:
        """Whether loading it runs code that isn't of installed packages: always."""
        return True

    def _unpickled(self, what: str) -> Any:
        try:
            content = base64.b64decode(self.content, validate=True)
        except ValueError as error:
            raise InputError(f"{what} in the plan is damaged: {error}. Plan the audit anew.") from error
        return unpickled(content, what)


class PickledModel(_Pickled):
    """A function without arguments that returns an ART classifier, or a classifier, sent whole: it runs code.

    Attributes:
        content: cloudpickle's bytes, in base64.
    """

    kind: Literal["pickle"] = "pickle"

    def load(self, device: str | None = None) -> Any:
        """Return the model as an ART classifier; see :meth:`RobustBenchModel.load`."""
        model = self._unpickled("The model")
        return placed(model, device) if isinstance(model, BaseEstimator) else model()


ModelSpec = Annotated[RobustBenchModel | FileModel | PickledModel, Field(discriminator="kind")]
"""How a model is loaded."""


class NamedData(Record):
    """A data set by its name or path: see :func:`art_classwise.load_dataset`.

    Attributes:
        name: Its name, or the path of a file or folder.
        split: E.g. ``"test"``.
        root: Folder of the downloaded sets.
        classes: Of a path: the class names.
        image_size: As for :func:`art_classwise.load_dataset`.
        of_classes: Only examples of these classes.
        n_examples: Only so many of the examples.
    """

    kind: Literal["named"] = "named"
    name: str
    split: str = "test"
    root: str | None = None
    classes: str | tuple[str, ...] | None = None
    image_size: int | None = None
    of_classes: tuple[str, ...] | None = None
    n_examples: int | None = None

    @property
    def runs_code(self) -> bool:
        """Whether loading it runs code that isn't of installed packages."""
        return False

    def load(self) -> Dataset:
        """Return the examples.

        Raises:
            InputError: They can't be read.
        """
        data = load_dataset(self.name, self.split, root=self.root, classes=self.classes, image_size=self.image_size)
        data = data if self.of_classes is None else data.of_classes(self.of_classes)
        return data if self.n_examples is None else data.first(self.n_examples)


class PickledData(_Pickled):
    """Examples sent whole.

    Attributes:
        content: cloudpickle's bytes, in base64.
    """

    kind: Literal["pickle"] = "pickle"

    def load(self) -> Dataset:
        """Return the examples.

        Raises:
            InputError: They can't be made again here.
        """
        data: Dataset = self._unpickled("The data set")
        return data


DataSpec = Annotated[NamedData | PickledData, Field(discriminator="kind")]
"""How examples are loaded."""


class PickledAttacks(_Pickled):
    """Attacks that have no name of their own: functions by name, sent whole.

    Attributes:
        content: cloudpickle's bytes, in base64.
    """

    def load(self) -> Any:
        """Return what :func:`art_classwise.attacks.ladder` takes.

        Raises:
            InputError: They can't be made again here.
        """
        return self._unpickled("An attack")


class Plan(Record):
    """What a process must know to compute units of an audit, beside its manifest.

    Attributes:
        models: How each model is loaded.
        data: How the examples are.
        attacks: Names of attacks or ladders; or attacks sent whole.
        surrogate: How the source of transfer attacks is loaded, if there is one.
        precision: Of searches.
        batch_size: Examples computed at once; None for the usual number.
        threat_given: Whether the threat model was asked for; if not, the data set's usual steps come with it.
        checks: Whether the networks themselves are tried, too.
        seconds: What an example costs at most, by model and attack, measured where the audit was planned.
        release: The package's version.
    """

    models: dict[str, ModelSpec]
    data: DataSpec
    attacks: tuple[str, ...] | PickledAttacks
    surrogate: ModelSpec | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    batch_size: Annotated[int, Field(ge=1)] | None = None
    threat_given: bool = True
    checks: bool = True
    seconds: dict[str, dict[str, float]] = Field(default_factory=dict)
    release: str = ""

    def check_code(
        self, address: str, *, allowed: bool, own_models: Iterable[str] = (), own_data: bool = False
    ) -> None:
        """Check that nothing in the plan runs code of whoever planned, unless it may.

        Args:
            address: Of the plan.
            allowed: Whether it may.
            own_models: Names of models that aren't loaded as the plan says.
            own_data: Whether the examples aren't, either.

        Raises:
            InputError: Something does.
        """
        found = [
            f"the model {name!r}" for name, spec in self.models.items() if spec.runs_code and name not in own_models
        ]
        found += ["the surrogate"] if self.surrogate is not None and self.surrogate.runs_code else []
        found += ["the data set"] if self.data.runs_code and not own_data else []
        found += ["the attacks"] if isinstance(self.attacks, PickledAttacks) else []
        if found and not allowed:
            raise InputError(
                f"To compute units of {address} is to run code of whoever planned it: {', '.join(found)}. If you trust "
                "them, allow it: `run_code=True`."
            )


def loads(model: Any) -> bool:
    """Return whether this is a function that loads a model."""
    return callable(model) and not isinstance(model, (BaseEstimator, nn.Module))


def placed(classifier: Any, device: str | None = None) -> Any:
    """Return a classifier that was sent here, on the device that computes here.

    Args:
        classifier: An ART ``PyTorchClassifier`` on the CPU. It is changed.
        device: ``"cpu"`` or ``"cuda"``; the GPU where there is one, if absent.
    """
    import torch

    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    classifier.model.to(where)
    classifier._device = where
    return classifier


_ROBUSTBENCH = re.compile(r"robustbench:(?:(?P<dataset>[\w-]+)/)?(?P<name>[\w.-]+)")


def model_spec(name: str, model: Any, data: Dataset, norm: str) -> Any:
    """Return how a model is loaded elsewhere.

    Args:
        name: Its name in tables.
        model: A spec; the path of a checkpoint of ours, ``"hf:..."``, ``"robustbench:NAME"`` or
            ``"robustbench:DATASET/NAME"``; a function without arguments; or an ART classifier. The last two are sent
            whole, and warned of.
        data: The examples.
        norm: Of the threat model.

    Raises:
        InputError: It is something else, or can't be sent.
    """
    if isinstance(model, (RobustBenchModel, FileModel, PickledModel)):
        return model
    if isinstance(model, (str, os.PathLike)):
        text = os.fspath(model)
        if match := _ROBUSTBENCH.fullmatch(text):
            return RobustBenchModel(name=match["name"], dataset=match["dataset"] or data.name, norm=norm)
        return FileModel(path=text if text.startswith("hf:") else str(Path(text).absolute()))
    if not (loads(model) or isinstance(model, BaseEstimator)):
        raise InputError(
            f"The model {name!r} must be an ART classifier, a function that returns one, the path of a checkpoint, or "
            f"robustbench:NAME, but is a {type(model).__name__}."
        )
    content = pickled(model, f"The model {name!r}")
    warnings.warn(
        f"The model {name!r} is written into the plan as it is ({len(content) / 1e6:.1f} MB): whoever computes its "
        "units runs code from the plan. A checkpoint's path or robustbench:NAME would do without.",
        stacklevel=3,
    )
    return PickledModel(content=base64.b64encode(content).decode())


def data_spec(data: Any, loaded: Dataset) -> Any:
    """Return how examples are loaded elsewhere.

    Args:
        data: A spec, a name or path, or the examples, which are sent whole.
        loaded: The same, loaded.

    Raises:
        InputError: They can't be sent.
    """
    if isinstance(data, (NamedData, PickledData)):
        return data
    if isinstance(data, (str, os.PathLike)):
        text = os.fspath(data)
        return NamedData(name=str(Path(text).absolute()) if Path(text).exists() else text)
    content = pickled(loaded, "The data set")
    warnings.warn(
        f"The examples are written into the plan ({len(content) / 1e6:.1f} MB): a name or a path would do without.",
        stacklevel=3,
    )
    return PickledData(content=base64.b64encode(content).decode())


def attacks_spec(attacks: Any) -> Any:
    """Return how attacks are made elsewhere: by their names, or sent whole.

    Raises:
        InputError: They can't be sent.
    """
    asked = (attacks,) if isinstance(attacks, str) else attacks
    if isinstance(asked, Sequence) and all(isinstance(a, str) for a in asked):
        return tuple(asked)
    return PickledAttacks(content=base64.b64encode(pickled(attacks, "An attack")).decode())


@dataclass(frozen=True)
class Task:
    """What is computed in one piece: a model's outcomes on a shard, under one attack.

    Where broken examples leave it is all of the attacks, in their order.

    Attributes:
        model: The model's name.
        shard: Number of the shard.
        attacks: Names of attacks; None for outcomes without.
        chain: Whether broken examples leave.
    """

    model: str
    shard: int
    attacks: tuple[str | None, ...]
    chain: bool = False

    @property
    def id(self) -> str:
        """Its stable name: MODEL/ATTACK/SHARD, names quoted as in an address."""
        attack = WORST_CASE if self.chain else self.attacks[0]
        return f"{quote(self.model, safe='')}/{quote(attack or CLEAN_NAME, safe='')}/{self.shard:05d}"


def tasks(models: Sequence[str], attacks: Sequence[str], n_shards: int, *, worst_case: bool) -> Iterator[Task]:
    """Yield all units of an audit in their stable order: model by model, and of a model shard by shard."""
    for model in models:
        for shard in range(n_shards):
            if worst_case:
                yield Task(model, shard, (None, *attacks), chain=True)
            else:
                for attack in (None, *attacks):
                    yield Task(model, shard, (attack,))


def share(n: int, index: int, of: int) -> range:
    """Return which of n units are those of one worker of several, by number: ones that follow each other.

    Args:
        n: How many units.
        index: Which worker, from 0.
        of: How many workers.
    """
    return range(n * index // of, n * (index + 1) // of)


def by_id(all_tasks: Sequence[Task], ids: Sequence[str]) -> list[Task]:
    """Return units by their ids.

    Raises:
        InputError: There is no such unit.
    """
    known: Mapping[str, Task] = {task.id: task for task in all_tasks}
    for one in ids:
        if one not in known:
            from art_classwise.errors import unknown

            raise unknown("unit", one, known, hint="`art-classwise work STORE --list` lists them.")
    return [known[one] for one in ids]
