"""Certificates in an audit's folder: whether they are of the audit, and, at random, whether they come out again."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from art_classwise.audit.manifest import Manifest
from art_classwise.audit.provenance import environment
from art_classwise.audit.store import Store, certificates_folder
from art_classwise.certification import certify
from art_classwise.certification.bounds import HALVINGS, bounding
from art_classwise.certification.result import FILE, TABLE, CertifiedResult, parsed
from art_classwise.certification.smoothing import certified_radius, votes_of
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError, first_line

__all__ = [
    "MOST_EXAMPLES",
    "Recertified",
    "certificate_differences",
    "finished_certificates",
    "passes_of",
    "recertified",
]

MOST_EXAMPLES = 8
"""Examples of a certificate that are certified anew, whatever the share: each takes as many passes as samples."""

_FLIPS = 0.001
"""Share of the votes under noise that may differ on another kind of processor, which rounds otherwise."""

_STEPS = 2
"""Steps of the bisection by which radii of bounds may differ: bounds are rounded otherwise in another batch."""


@dataclass(frozen=True)
class Recertified:
    """Examples of a certificate that were certified anew.

    Attributes:
        model: Name of the model.
        examples: Their numbers in the data set.
        n: How many the certificate has.
        passes: How many noisy images the network had to look at, or radii its bounds were computed for.
        exact: Whether votes were counted where the certificate was made, so that they must be equal to the bit.
        differences: What differs, a sentence each.
        by_bounds: Whether bounds were computed, and no votes counted.
    """

    model: str
    examples: tuple[int, ...]
    n: int
    passes: int
    exact: bool
    differences: tuple[str, ...]
    by_bounds: bool = False

    def __str__(self) -> str:
        how = "equal to the bit" if self.exact else f"equal but for {_FLIPS:.1%} of the votes, as on another processor"
        if self.by_bounds:
            how = f"equal but for {_STEPS} steps of the bisection"
        return (
            f"{len(self.examples)} of {self.n} certified examples of {self.model} come out {how}, in {self.passes:,} "
            "forward passes."
        )


def certificate_differences(store: Store, manifest: Manifest, unchecked: list[str]) -> Iterator[str]:
    """Yield what is wrong with the certificates in an audit's folder.

    Args:
        store: The folder.
        manifest: The audit's.
        unchecked: Where to say what can't be checked.
    """
    models = {certificates_folder(model): model for model in manifest.models}
    finished = {*store.certificate_files()}
    unlisted = []
    for name in store.certificate_files(finished=False):
        folder, _, file = name.rpartition("/")
        if file != FILE:
            continue
        if folder not in models:
            yield f"{name} is of no model of the audit."
            continue
        try:
            found = parsed(store.folder.read(name), name)
        except (InputError, OSError) as error:
            yield f"{first_line(error).rstrip('.')}."
            continue
        if name not in finished and name in manifest.files:
            yield f"{name} is listed in the manifest, but isn't finished."
            continue
        if name not in finished:
            unchecked.append(
                f"The certificate of {models[folder]}, which isn't finished, and isn't shown: the command that "
                "began it goes on."
            )
            continue
        if name not in manifest.files and manifest.files and not manifest.lists_certificates:
            unlisted.append(models[folder])
        yield from (f"{name} {said}." for said in _misfits(store, manifest, models[folder], found))
        yield from _table(store, f"{folder}/{TABLE}", found)
    if unlisted:
        unchecked.append(
            f"Digests of the certificates of {', '.join(unlisted)}, since the manifest lists none: an earlier release "
            "wrote them. `art-classwise collect STORE` lists them as they are now."
        )


def _misfits(store: Store, manifest: Manifest, model: str, found: CertifiedResult) -> Iterator[str]:
    """Yield, as ends of sentences, in what a certificate isn't of an audit's network, classes and examples."""
    of, source, key = found.certificate, manifest.sources.get(model), manifest.models[model]
    rows = _clean(store, manifest, key)
    known = manifest.examples.fingerprint is not None
    if known and (of.dataset, of.split) != (manifest.examples.dataset, manifest.examples.split):
        yield f"is of {of.dataset} ({of.split}), not of {manifest.examples.dataset} ({manifest.examples.split})"
    if of.classes != manifest.classes:
        yield "is of other classes than the audit"
    if known and manifest.examples.fingerprint != of.examples:
        yield "is of other images than the audit"
    if rows is not None and not rows[["example", "label"]].equals(found.examples[["example", "label"]]):
        yield "is of other examples, or has other labels, than the audit"
        rows = None
    if of.noise is not None:
        if source is not None and (source.weights, key) != (of.weights, of.model):
            yield f"is of another network: its weights or layers aren't those of {model}"
    elif rows is not None and not np.array_equal(rows["prediction"], found.examples["prediction"]):
        yield f"is of another network: its predictions aren't those of {model}"  # ART converts it, weights and all


def _clean(store: Store, manifest: Manifest, key: str) -> pd.DataFrame | None:
    shards = store.shards(key, None)
    try:
        tables = [store.table(shards[number]) for number in range(manifest.n_shards)]
    except (InputError, LookupError):  # which is said elsewhere
        return None
    frame: pd.DataFrame = pa.concat_tables(tables).select(["example", "label", "prediction"]).to_pandas()
    return frame.astype(np.int64)


def _table(store: Store, name: str, found: CertifiedResult) -> Iterator[str]:
    """Yield whether a certificate's table is another one than it makes."""
    try:
        content = store.folder.read(name)
    except OSError:
        return  # if it was listed, that is said
    try:
        rows = csv.DictReader(io.StringIO(content.decode()))
        radii = dict.fromkeys(float(row["radius"]) for row in rows)
        made = found.certified_at([*radii]).to_csv().encode()
    except (InputError, ValueError, TypeError, KeyError, csv.Error) as error:
        yield f"{name} isn't the table of its certificate: {first_line(error).rstrip('.')}."
        return
    if made.splitlines() != content.splitlines():
        yield f"{name} isn't the table of its certificate."


def finished_certificates(store: Store, manifest: Manifest) -> dict[str, CertifiedResult]:
    """Return the certificates of an audit's models, those that are damaged or unfinished left out."""
    found, finished = {}, {*store.certificate_files()}
    for model in manifest.models:
        name = f"{certificates_folder(model)}/{FILE}"
        if name in finished:
            try:
                found[model] = parsed(store.folder.read(name), name)
            except (InputError, OSError):
                continue
    return found


def recertified(found: CertifiedResult, model: str, classifier: Any, data: Dataset, rows: list[int]) -> Recertified:
    """Certify some examples of a certificate anew, with its own settings, and compare.

    Args:
        found: The certificate.
        model: Name of the model.
        classifier: The model.
        data: The audit's examples.
        rows: Places of the examples in the certificate.

    Raises:
        InputError: An example isn't there, or the model can't be certified so.
    """
    of, some = found.certificate, found.examples.iloc[rows]
    places = {int(number): place for place, number in enumerate(data.ids)}
    lacking = [int(number) for number in some["example"] if int(number) not in places]
    if lacking:
        raise InputError(f"There is no example {lacking[0]} among those given.")
    settings: Mapping[str, Any] = {name: getattr(of, name) for name in ("noise", "n", "n_selection", "alpha", "seed")}
    by_bounds = of.noise is None
    if by_bounds:
        classifier, settings = bounding(classifier, of.method), {"max_radius": of.reach}
    now = certify(
        classifier,
        data.take(np.array([places[int(number)] for number in some["example"]])),
        **settings,
        verbose=False,
    )
    exact = found.environments == (environment(),)
    if by_bounds and (now.certificate.model, now.certificate.weights) != (of.model, of.weights):
        raise InputError(
            f"ART makes another network of {model} than the one whose bounds by {of.method}s were certified, as other "
            "releases do."
        )
    again = now.examples
    differences = [
        f"The certificate of {model} comes out otherwise for example {then.example}: its {' and '.join(names)}."
        for then, new in zip(some.itertuples(), again.itertuples(), strict=True)
        if (names := _other(found, then, new, exact=exact))
    ]
    return Recertified(
        model,
        tuple(int(number) for number in some["example"]),
        len(found.examples),
        len(rows) * passes_of(found),
        exact and not by_bounds,
        tuple(differences),
        by_bounds,
    )


def passes_of(found: CertifiedResult) -> int:
    """Return how many passes through the network an example of a certificate takes."""
    of = found.certificate
    return HALVINGS + 2 if of.noise is None else (of.n or 0) + (of.n_selection or 0)


def _other(found: CertifiedResult, then: Any, now: Any, *, exact: bool) -> list[str]:
    """Return what differs of an example: names of columns."""
    if found.certificate.noise is None:
        names = [name for name in ("label", "prediction") if getattr(then, name) != getattr(now, name)]
        apart = abs(then.radius - now.radius) > _STEPS * found.certificate.reach / 2**HALVINGS * (1 + 1e-9)
        return [*names, "radius"] if apart else names
    if exact:
        return [name for name in ("label", "prediction", "radius") if getattr(then, name) != getattr(now, name)]
    of = found.certificate
    assert of.noise is not None
    assert of.n is not None
    settings = (of.n, of.noise, of.alpha)
    spare = max(2, math.ceil(_FLIPS * of.n))
    votes = [int(votes_of(one.radius, *settings)) for one in (then, now)]
    reached = float(certified_radius(min(of.n, int(max(votes)) - spare), *settings))
    names = ["label"] if then.label != now.label else []
    if then.prediction != now.prediction and (min(then.prediction, now.prediction) >= 0 or reached > 0):
        return [*names, "prediction"]
    if then.prediction == now.prediction and abs(votes[0] - votes[1]) > spare:
        return [*names, "radius"]
    return names
