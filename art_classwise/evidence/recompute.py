"""Units of an audit computed anew, drawn at random: what a forger can't foresee."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from art_classwise._core.forward import release
from art_classwise._core.progress import progress_bar
from art_classwise.attacks.fast_copy import Precision
from art_classwise.audit.corrupted import attack_factories, is_described_corruption, located
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.outcomes import DISTANCE
from art_classwise.audit.plan import PickledAttacks, Task, loads, tasks
from art_classwise.audit.provenance import environment, model_fingerprint
from art_classwise.audit.request import check_fit, checked_attack, described_attacks
from art_classwise.audit.runner import ShardRunner
from art_classwise.audit.store import Store, Unit
from art_classwise.audit.work import checked_data, compute, unit_of
from art_classwise.datasets import Dataset, as_dataset, load_dataset
from art_classwise.errors import InputError, first_line
from art_classwise.evidence.certificates import (
    MOST_EXAMPLES,
    Recertified,
    finished_certificates,
    passes_of,
    recertified,
)

__all__ = ["Recomputed", "drawn", "recomputed"]

_FLIPS = 0.02
"""Share of a unit's verdicts that may differ on another kind of processor, where an example withstands by a hair."""


@dataclass(frozen=True)
class Recomputed:
    """Units that were computed anew.

    Attributes:
        units: Their ids.
        n: How many units there are.
        seed: Of the draw.
        exact: Whether they were computed where the audit was, so that they must be equal to the bit.
        differences: What differs, a sentence each.
        certificates: Examples that were certified anew, of each certificate.
        unchecked: What couldn't be computed anew, and why, a sentence each.
    """

    units: tuple[str, ...]
    n: int
    seed: int
    exact: bool
    differences: tuple[str, ...]
    certificates: tuple[Recertified, ...] = ()
    unchecked: tuple[str, ...] = ()

    def missed(self, share: float) -> float:
        """Return the probability that none of these units is a changed one, had a share of all been changed.

        It is hypergeometric: C(n - k, m) / C(n, m) of m units drawn, and k = share x n changed ones, rounded up.

        Args:
            share: Of all units, above 0.
        """
        changed = min(self.n, math.ceil(share * self.n - 1e-9))
        return math.comb(self.n - changed, len(self.units)) / math.comb(self.n, len(self.units))

    def __str__(self) -> str:
        how = (
            "equal to the bit"
            if self.exact
            else f"equal but for at most {_FLIPS:.0%} of a unit's verdicts, as on another kind of processor"
        )
        odds = ", ".join(f"{self.missed(s):.1%} for {s:.0%}" for s in (0.01, 0.05, 0.1, 0.5))
        return (
            f"{len(self.units)} of {self.n} units, drawn by seed {self.seed}, come out {how}. That a changed share of "
            f"the units is missed by such a draw has a probability of {odds}."
            + "".join(f" {one}" for one in self.certificates)
        )


def drawn(n: int, share: float, seed: int) -> list[int]:
    """Return which of n units to compute anew, at least one, each equally likely.

    Args:
        n: How many there are.
        share: Which share of them.
        seed: Of the draw.
    """
    m = min(n, max(1, math.ceil(share * n - 1e-9)))
    return sorted(int(i) for i in np.random.default_rng(seed).choice(n, m, replace=False))


def recomputed(
    store: Store,
    manifest: Manifest,
    share: float,
    *,
    models: Mapping[str, Any] | None,
    data: Any,
    seed: int | None,
    run_code: bool,
    verbose: bool,
) -> Recomputed:
    """Compute units anew and compare them with those of a store: see :func:`art_classwise.verify`.

    Raises:
        InputError: Models, examples or attacks can't be loaded, or are others than the audit's.
    """
    every = [*tasks(list(manifest.models), list(manifest.attacks), manifest.n_shards, worst_case=manifest.worst_case)]
    seed = secrets.randbits(32) if seed is None else seed
    chosen = [every[i] for i in drawn(len(every), share, seed)]
    plan, spec = manifest.plan, {} if manifest.plan is None else manifest.plan.models
    certificates = finished_certificates(store, manifest)
    lacking = {task.model for task in chosen} - {*(models or {}), *spec}
    if lacking:
        raise InputError(
            f"The audit doesn't say how to load {', '.join(sorted(lacking))}.",
            python="Give `models`, by the names that they have in the audit.",
        )
    if plan is not None:
        plan.check_code(store.address, allowed=run_code, own_models=models or (), own_data=data is not None)
    examples = _examples(store, manifest, data)
    runner = ShardRunner(
        examples,
        manifest.threat,
        shard_size=manifest.shard_size,
        seed=manifest.seed,
        batch_size=None if plan is None else plan.batch_size,
    )
    exact, differences = environment() in manifest.environments, list[str]()
    again, unchecked = list[Recertified](), list[str]()
    with progress_bar(total=len(chosen) + len(certificates), name="verify", shown=verbose) as bar:
        for model in dict.fromkeys([*(task.model for task in chosen), *certificates]):
            if model not in {*(models or {}), *spec}:
                unchecked.append(f"The certificate of {model}, since the audit doesn't say how to load that.")
                continue
            classifier = _loaded(model, models, spec)
            _check_model(manifest, model, classifier, examples)
            of_model = [task for task in chosen if task.model == model]
            attacks = _attacks(manifest, model, classifier, examples) if of_model else {}
            for task in of_model:
                bar.at(task.id)
                for attack, frame in compute(runner, classifier, attacks, task, {}):
                    stored = store.read(unit_of(manifest, task, attack))
                    differences += _differences(task, attack, stored, frame, exact=exact)
                bar.update()
            if model in certificates:
                found = certificates[model]
                n = len(found.examples)
                rows = drawn(n, min(share, MOST_EXAMPLES / n), seed)
                bar.at(f"{model}: {len(rows)} certified examples, {len(rows) * passes_of(found):,} passes")
                try:
                    again.append(recertified(found, model, classifier, examples, rows))
                except InputError as error:
                    unchecked.append(f"The certificate of {model}: {first_line(error).rstrip('.')}.")
                bar.update()
            del classifier, attacks
            release()
    differences += [said for one in again for said in one.differences]
    units = tuple(task.id for task in chosen)
    return Recomputed(units, len(every), seed, exact, tuple(differences), tuple(again), tuple(unchecked))


def _examples(store: Store, manifest: Manifest, data: Any) -> Dataset:
    examples, plan = manifest.examples, manifest.plan
    if data is not None:
        found = as_dataset(data, n_classes=len(manifest.classes))
    elif plan is not None:
        found = plan.data.load()
    else:
        found = load_dataset(examples.dataset, examples.split, download=False)
    if len(found) > examples.n:  # the ones that the outcomes are of
        name, key = next(iter(manifest.models.items()))
        held = np.concatenate([store.read(Unit(key, None, shard))["example"] for shard in range(manifest.n_shards)])
        rows = {int(number): row for row, number in enumerate(found.ids)}
        lacking = [number for number in held if int(number) not in rows]
        if lacking:
            raise InputError(f"{found.name} has no example {lacking[0]}, on which {name} was audited.")
        found = found.take(np.array([rows[int(number)] for number in held]))
    return checked_data(found, examples.fingerprint)


def _loaded(name: str, models: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> Any:
    given = (models or {}).get(name)
    if given is None:
        return spec[name].load()
    return given() if loads(given) else given


def _check_model(manifest: Manifest, name: str, classifier: Any, examples: Dataset) -> None:
    """Refuse a model that isn't the audit's."""
    check_fit(name, classifier, examples)
    if model_fingerprint(classifier) != manifest.models[name]:
        raise InputError(f"The network given as {name!r} isn't the audit's: it has another fingerprint.")


def _attacks(manifest: Manifest, name: str, classifier: Any, examples: Dataset) -> dict[str, Any]:
    """Return the audit's attacks on a model, if these are the audit's."""
    plan = manifest.plan
    surrogate = None if plan is None or plan.surrogate is None else plan.surrogate.load()
    corruptions = [name for name, known in manifest.attacks.items() if is_described_corruption(known.parameters)]
    names, corrupted = located(examples, corruptions, None if plan is None else plan.corruption_dir)
    named: Any = [name for name in manifest.attacks if name not in corruptions]
    if plan is not None and isinstance(plan.attacks, PickledAttacks):
        named = plan.attacks.load()
    # How it was asked for isn't kept where nothing was planned: whether the radius was given, and the precision.
    precisions: tuple[Precision, ...] = ("auto", "fp32", "bf16") if plan is None else (plan.precision,)
    other: list[str] = []
    for threat, precision in product((manifest.threat, None), precisions):
        try:
            made = attack_factories(
                named or None,
                names,
                threat,
                corrupted=corrupted,
                dataset=manifest.examples.dataset,
                surrogate=surrogate,
                seed=manifest.seed,
                batch_size=512 if plan is None else plan.batch_size or 512,
                precision=precision,
            )
        except InputError:  # a name of the user's own
            break
        attacks = {one: checked_attack(one, make(classifier)) for one, make in made.items()}
        attacks = {one: attacks[one] for one in manifest.attacks if one in attacks}
        told = described_attacks({name: attacks}, worst_case=manifest.worst_case)
        other = [one for one, known in manifest.attacks.items() if told.get(one) != known]
        if not other:
            return attacks
    raise InputError(
        f"The attacks {', '.join(other or named)} can't be made again from their names: this audit can't be computed "
        "anew."
    )


def _differences(
    task: Task, attack: str | None, stored: pd.DataFrame, frame: pd.DataFrame, *, exact: bool
) -> Sequence[str]:
    where = f"{task.id}{f' ({attack})' if task.chain else ''}"
    names = ["example", "label", "prediction", "margin", "perturbation", "zero_gradient"]
    if exact:
        names += [DISTANCE] * (DISTANCE in stored or DISTANCE in frame)
        other = [
            name
            for name in names
            if (name in stored) != (name in frame)
            or not np.array_equal(stored[name], frame[name], equal_nan=name in ("margin", DISTANCE))
        ]
        return [f"{where} comes out otherwise: its {', '.join(other)}."] if other else []
    both = stored.merge(frame, on="example", suffixes=("", "_now"))
    most = max(2, math.ceil(_FLIPS * len(frame)))
    strange = len(frame) + len(stored) - 2 * len(both)
    if strange > (most if task.chain else 0):
        return [f"{where} is of other examples: {strange} stand in one only."]
    if (both["label"] != both["label_now"]).any():
        return [f"{where} has other labels."]
    flips = int(((both["prediction"] == both["label"]) != (both["prediction_now"] == both["label"])).sum())
    if flips > most:
        return [f"{where} comes out otherwise: {flips} of {len(both)} verdicts."]
    return []
