"""Run attacks on models and write down what each did to each example."""

from __future__ import annotations

import datetime
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from art.evaluations.evaluation import Evaluation
from tqdm.auto import tqdm

from art_classwise import _estimator, losses
from art_classwise._files import check_output_folder
from art_classwise._state import preserved, preserved_random_state
from art_classwise.attacks._fast import Precision
from art_classwise.attacks.ladder import Attacks, ladder, usual_threat
from art_classwise.audit.provenance import environment, parameters
from art_classwise.audit.result import AuditResult
from art_classwise.audit.store import write_audit
from art_classwise.datasets import Dataset
from art_classwise.errors import GradientMaskingWarning, InputError, check_name, check_seed, check_whole
from art_classwise.threat import ThreatModel

__all__ = ["ClassWiseAudit"]

_SHARD = 512  # examples; other packages' attacks draw their randomness per shard


class ClassWiseAudit(Evaluation):
    """An audit of models under attacks, kept example by example.

    Whether an example withstood is decided in float32 and eval mode, after the attack's result is brought back
    into the ball and into [0, 1]. An example that is misclassified without attack has not withstood.

    Args:
        threat: E.g. ``"Linf:8/255"``, in the units of images in [0, 1]; if absent, the one in use for the data set.
        attacks: What :func:`art_classwise.attacks.ladder` takes: a ladder, names, ART attacks, or functions by name.
        surrogate: An ART classifier that the ladder's transfer attacks come from.
        precision: Of the ladder's searches: see :class:`art_classwise.attacks.PGD`. Verdicts are float32 always.
        store: Folder to write the outcomes to.
        seed: Of the attacks.
        batch_size: Examples attacked at once, at most 512.
        verbose: Show a progress bar.
        command: The command line that runs the audit, kept with its outcomes and shown in its report.

    Raises:
        InputError: The threat model or an attack is unknown or out of range, or the folder can't be written.
    """

    def __init__(
        self,
        threat: ThreatModel | str | None = None,
        attacks: Attacks = "quick",
        *,
        surrogate: Any = None,
        precision: Precision = "auto",
        store: str | os.PathLike[str] | None = None,
        seed: int = 0,
        batch_size: int = 256,
        verbose: bool = True,
        command: str | None = None,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        check_seed(seed)
        self.threat = None if threat is None else ThreatModel.parse(threat)
        self._ladder = partial(
            ladder, attacks, surrogate=surrogate, seed=seed, batch_size=batch_size, precision=precision
        )
        self._ladder(self.threat or "Linf:8/255")  # a wrong name is better known now
        self.store = None if store is None else check_output_folder(store)
        self.seed = seed
        self.batch_size = batch_size
        self.verbose = verbose
        self.command = command

    def evaluate(self, models: Mapping[str, Any], data: Dataset) -> AuditResult:
        """Attack every example of ``data`` on every model with every attack.

        Args:
            models: ART ``PyTorchClassifier`` s by the names they shall have in the tables.
            data: The examples.

        Returns:
            The outcomes. The models, and the global random state, are as they were.

        Raises:
            InputError: There is no model, a model doesn't fit the data or doesn't return logits, an attack
                returns something else than images, or the radius covers the whole range [0, 1].
        """
        if not isinstance(models, Mapping) or not models:
            raise InputError("`models` must be a dict of at least one ART classifier by name.")
        for name, classifier in models.items():
            _check_fit(name, classifier, data)
        threat = self.threat or usual_threat(data.name)
        threat.check_radius(0.0, 1.0, int(np.prod(data.input_shape)))
        factories = self._ladder(self.threat, dataset=data.name)
        parts, described = [], {}
        shards = [np.arange(a, min(a + _SHARD, len(data))) for a in range(0, len(data), _SHARD)]
        total = len(models) * len(factories) * len(data)
        with tqdm(total=total, desc="audit", unit="attack", disable=not self.verbose) as bar:
            for name, classifier in models.items():
                attacks = {a: _checked(a, make(classifier), threat) for a, make in factories.items()}
                described = {a: parameters(attack) for a, attack in attacks.items()}
                bar.set_description(f"audit {name}")
                for rows in shards:
                    for table in self._shard(classifier, attacks, threat, data.take(rows), int(rows[0])):
                        table.insert(0, "model", name)
                        parts.append(table)
                        bar.update(len(table))
        outcomes = pd.concat(parts, ignore_index=True)
        for column, order in (("model", list(models)), ("attack", list(factories))):
            outcomes[column] = pd.Categorical(outcomes[column], categories=order)
        result = AuditResult(
            outcomes=outcomes,
            classes=data.classes,
            threat=threat,
            info={
                "dataset": data.name,
                "split": data.split,
                "n_examples": len(data),
                "seed": self.seed,
                "attacks": described,
                "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "environment": environment(),
                "command": None if self.command is None else self.command.encode(errors="backslashreplace").decode(),
            },
        )
        if self.store is not None:
            write_audit(result, self.store)
        return result

    def _shard(
        self, classifier: Any, attacks: Mapping[str, Any], threat: ThreatModel, data: Dataset, first: int
    ) -> Iterator[pd.DataFrame]:
        x, y = np.asarray(data.x[:]), data.y
        clean = self._logits(classifier, x, data.ids)
        if first == 0:
            _warn_of_probabilities(clean)
        for name, attack in attacks.items():
            extra = {"example_ids": data.ids} if getattr(attack, "uses_example_ids", False) else {}
            # ART's attacks leave the model in eval mode and write gradients into its weights.
            with (
                preserved(classifier.model),
                preserved_random_state(zlib.crc32(f"{self.seed} {name} {first}".encode())),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore", GradientMaskingWarning)  # the outcomes say it, example by example
                x_adv = np.asarray(attack.generate(x, y, **extra), dtype=np.float32)
            if x_adv.shape != x.shape or not np.isfinite(x_adv).all():
                raise InputError(
                    f"The attack {name!r} must return finite images of shape {x.shape}, but returned "
                    f"{'values that are not finite' if x_adv.shape == x.shape else f'shape {x_adv.shape}'}."
                )
            original = torch.from_numpy(x)
            inside = threat.project(torch.from_numpy(x_adv), original, torch.tensor(0.0), torch.tensor(1.0))
            table = _outcomes(data, clean, self._logits(classifier, inside.numpy(), data.ids))
            table.insert(0, "attack", name)
            table["perturbation"] = threat.size(inside - original).numpy()
            zero = np.asarray(getattr(attack, "zero_gradient", []), dtype=bool)
            table["zero_gradient"] = zero if len(zero) == len(y) else np.zeros(len(y), dtype=bool)
            yield table

    def _logits(self, classifier: Any, x: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return float32 logits on the CPU, in eval mode."""
        module, device = _estimator.logits_module(classifier), classifier.device
        batches = torch.from_numpy(x).split(self.batch_size)
        parts = [_estimator.exact_logits(module, b.to(device), classifier.nb_classes).cpu() for b in batches]
        logits = torch.cat(parts)
        finite = logits.isfinite().all(1)
        if not finite.all():
            raise InputError(
                f"The model returns logits that are not finite, first for example {ids[int(finite.int().argmin())]}."
            )
        return logits


def _outcomes(data: Dataset, clean: torch.Tensor, attacked: torch.Tensor) -> pd.DataFrame:
    """Return the columns that follow from labels, clean logits and logits under attack, (n, C) each."""
    labels = torch.from_numpy(data.y)
    prediction, adversarial = clean.argmax(1), attacked.argmax(1)
    return pd.DataFrame(
        {
            "example": data.ids.astype(np.int64),
            "label": data.y.astype(np.int32),
            "clean_prediction": prediction.numpy().astype(np.int32),
            "prediction": adversarial.numpy().astype(np.int32),
            "withstood": ((prediction == labels) & (adversarial == labels)).numpy(),
            "clean_margin": -losses.margin(clean, labels).numpy(),
            "margin": -losses.margin(attacked, labels).numpy(),
        }
    )


def _check_fit(name: str, classifier: Any, data: Dataset) -> None:
    check_name("model", name)
    _estimator.check_classifier(f"The model {name!r}", classifier)
    low, high = classifier.clip_values if classifier.clip_values is not None else (-np.inf, np.inf)
    if not (np.all(np.asarray(low) == 0) and np.all(np.asarray(high) == 1)):
        raise InputError(
            f"The model {name!r} has clip_values {classifier.clip_values}, but an audit's images lie in [0, 1]: "
            "make the classifier with clip_values=(0, 1)."
        )
    if classifier.nb_classes != len(data.classes):
        raise InputError(
            f"The model {name!r} has {classifier.nb_classes} classes, but {data.name} has {len(data.classes)}."
        )
    if tuple(classifier.input_shape) != data.input_shape:
        raise InputError(
            f"The model {name!r} takes images of shape {tuple(classifier.input_shape)}, but those of {data.name} "
            f"have shape {data.input_shape}."
        )


def _checked(name: str, attack: Any, threat: ThreatModel) -> Any:
    if getattr(attack, "targeted", False):
        raise InputError(
            f"The attack {name!r} is targeted: it would drive each example towards its true label. "
            "Make it with targeted=False."
        )
    searched = getattr(attack, "attack", attack)  # a transfer's is within
    norm, eps = getattr(searched, "norm", None), getattr(searched, "eps", None)
    if isinstance(norm, (int, float, str)) and isinstance(eps, float):
        other = (norm != threat.art_norm and str(norm) != str(threat.art_norm)) or eps < 0.99 * threat.eps
        if other:
            warnings.warn(
                f"The attack {name!r} searches within norm {norm} and eps {eps:g}, the audit is for {threat}: "
                "it may miss what the threat model allows.",
                stacklevel=3,
            )
    return attack


def _warn_of_probabilities(outputs: torch.Tensor) -> None:
    if bool((outputs >= 0).all()) and torch.allclose(outputs.sum(1), torch.ones(len(outputs)), atol=1e-4):
        warnings.warn(
            "The model seems to return probabilities. Gradients vanish through a softmax, so gradient attacks look "
            "weaker than they are: return logits, or log-probabilities.",
            stacklevel=4,
        )
