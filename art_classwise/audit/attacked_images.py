"""A few attacked images of each class, to be looked at: audits keep outcomes, so these are attacked once more.

What is shown is what the network judged. The original is rounded to 8 bits first, the attack starts from that, and its
result is rounded to 8 bits within the ball; only where the network itself, in float32, takes the former for its class
and the latter for another one are the two kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from art_classwise._core import art_interface
from art_classwise._core.forward import MicroBatches, usual_batch_size
from art_classwise._core.plain_values import differences
from art_classwise._core.progress import progress
from art_classwise._core.state import preserved, preserved_random_state
from art_classwise.attacks.ladder import Attacks, ladder
from art_classwise.audit.outcomes import AuditTable
from art_classwise.audit.provenance import data_fingerprint, model_fingerprint, parameters
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError, check_whole
from art_classwise.threat import ThreatModel

__all__ = ["AttackedImage", "attack_images", "is_within", "rounded_within"]

_MOST = 36  # images of an audit: a page with more is slow to read
_MOST_VALUES = 700_000  # pixels times channels of all originals: large images make a page large
_COSTLY = ("AutoAttack", "Square")  # tried last: what another attack breaks needs no minutes

_Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class AttackedImage:
    """An example that an attack broke, as the network was asked about it.

    Attributes:
        model: Name of the model.
        attack: Name of the attack.
        example: The example's number in the data set.
        label: Its class, which the model predicts without attack.
        prediction: The class that the model predicts under the attack, another one.
        original: (C, H, W) of uint8, grey or colour.
        attacked: Likewise, within the threat model's ball around ``original``.
    """

    model: str
    attack: str
    example: int
    label: int
    prediction: int
    original: _Image
    attacked: _Image


def attack_images(
    result: AuditTable,
    models: Mapping[str, Any],
    data: Dataset,
    *,
    attacks: Attacks | None = None,
    per_class: int = 3,
    verbose: bool = False,
) -> tuple[AttackedImage, ...]:
    """Attack a few examples of each class once more, and return the images.

    Of each class, examples are drawn at random from those that an attack of the audit broke; the attack is the first
    one that did, AutoAttack and Square after all others. Models take turns, the most robust first. There are 36 images
    at most, and fewer large ones: of many classes, the weakest are shown.

    Args:
        result: The audit.
        models: ART ``PyTorchClassifier`` s by the names they have in the audit; others are left out.
        data: The examples of the audit.
        attacks: Attacks that were given to the audit as objects or functions, as they were given to it. Those that it
            knew by name are found by themselves.
        per_class: Images of each class, at most.
        verbose: Show a progress bar.

    Returns:
        By class, the weakest first. There is none of a class of which no example was broken, or where a change of less
        than one of 256 grey levels is all that is allowed; none at all of images that are neither grey nor in colour.

    Raises:
        InputError: A model or the examples aren't those of the audit, or no attack of it is known.
    """
    check_whole("per_class", per_class, 1)
    manifest = result.manifest
    if manifest.examples.fingerprint not in (None, data_fingerprint(data)):
        raise InputError("These aren't the examples that were audited: give the same data set, with as many examples.")
    present = {name: models[name] for name in _ranked(result) if name in models}
    if not present:
        raise InputError(f"None of the models was audited; these were: {', '.join(result.models)}.")
    for name, classifier in present.items():
        if manifest.models[name] != model_fingerprint(classifier):
            raise InputError(f"The model {name!r} isn't the one that was audited: its weights or layers differ.")
    if data.input_shape[0] not in (1, 3):
        return ()
    most = min(_MOST, max(_MOST_VALUES // int(np.prod(data.input_shape)), 1))
    classes = _weakest(result)[:most]
    each = min(per_class, max(most // max(len(classes), 1), 1))
    found: dict[int, list[list[AttackedImage]]] = {k: [] for k in classes}
    shown = [*present.items()][:each]
    of_each = -(-each // len(shown)) + 1  # one to spare: rounded to 8 bits, a few are no longer broken
    for name, classifier in progress(shown, desc="images", unit="model", shown=verbose, leave=False):
        makers = _makers(result, classifier, attacks)
        images = [
            image
            for attack, examples in _chosen(result, name, [*makers], classes, of_each).items()
            for image in _attacked(result, name, classifier, attack, makers[attack], examples, data)
        ]
        for k in classes:
            found[k].append([image for image in images if image.label == k])
    return tuple(image for k in classes for image in _in_turns(found[k])[:each])


def _ranked(result: AuditTable) -> list[str]:
    means = {m: float(result.rows(m).groupby("label")["withstood"].mean().mean()) for m in result.models}
    return sorted(means, key=lambda name: -means[name])


def _weakest(result: AuditTable) -> list[int]:
    """Return the classes of which an example was broken, the weakest first, all models together."""
    share = pd.concat([result.rows(name) for name in result.models]).groupby("label")["withstood"].mean()
    numbers, robust = share.index.to_numpy(), share.to_numpy()
    return [int(numbers[i]) for i in np.argsort(robust, kind="stable") if robust[i] < 1]


def _in_turns(of_models: Sequence[Sequence[AttackedImage]]) -> list[AttackedImage]:
    longest = max(map(len, of_models), default=0)
    return [images[i] for i in range(longest) for images in of_models if i < len(images)]


def _makers(result: AuditTable, classifier: Any, attacks: Attacks | None) -> dict[str, Any]:
    """Return the audit's attacks on a model, as far as they are known, the costly ones last.

    Raises:
        InputError: None is known.
    """
    manifest, made = result.manifest, {}
    given = {} if attacks is None else ladder(attacks, result.threat)
    for name in result.attacks:
        recorded = manifest.parameters(name)
        options = {"seed": manifest.seed, "precision": recorded.get("precision", "auto")}
        for threat in (result.threat, None):  # whose steps differ: the data set's own, or a quarter of the radius
            try:
                make = (
                    given[name]
                    if name in given
                    else ladder(name, threat, dataset=manifest.examples.dataset, **options)[name]
                )
                attack = make(classifier)
            except (InputError, KeyError):  # one of the caller's own, or one that needs a surrogate
                continue
            if not differences(recorded, parameters(attack)):
                made[name] = attack
                break
    if not made:
        raise InputError(
            f"What {', '.join(result.attacks)} did can't be repeated from names alone: give `attacks` as they were "
            "given to the audit."
        )
    kinds = {name: f"{manifest.parameters(name)}" for name in made}
    return {name: made[name] for name in sorted(made, key=lambda name: any(kind in kinds[name] for kind in _COSTLY))}


def _chosen(
    result: AuditTable, model: str, attacks: Sequence[str], classes: Sequence[int], most: int
) -> dict[str, list[int]]:
    """Return which examples to attack by what: so many of each class, drawn at random from the broken ones."""
    columns = {attack: result.rows(model, attack).set_index("example") for attack in attacks}
    first = columns[attacks[0]]
    broken = pd.DataFrame({attack: ~rows["withstood"] for attack, rows in columns.items()})[
        first["label"] == first["clean_prediction"]
    ]
    by_what = broken.idxmax(axis=1)[broken.any(axis=1)]
    labels = first["label"].loc[by_what.index]
    chosen: dict[str, list[int]] = {attack: [] for attack in attacks}
    for k in classes:
        examples = np.sort(by_what.index[labels == k].to_numpy())
        for example in np.random.default_rng([result.manifest.seed, k]).permutation(examples)[:most]:
            chosen[by_what[example]].append(int(example))
    return {attack: examples for attack, examples in chosen.items() if examples}


def _attacked(
    result: AuditTable,
    name: str,
    classifier: Any,
    attack_name: str,
    attack: Any,
    examples: Sequence[int],
    data: Dataset,
) -> list[AttackedImage]:
    """Attack examples of one model, and return those that are broken as they are shown."""
    places = {int(number): row for row, number in enumerate(data.ids)}
    some = data.take(np.array([places[example] for example in examples]))
    original = _levels(np.asarray(some.x))
    x = original.astype(np.float32) / 255
    extra = {"example_ids": some.ids} if getattr(attack, "uses_example_ids", False) else {}
    draws = zlib.crc32(f"{result.manifest.seed} {attack_name} images".encode())
    with preserved(classifier.model), preserved_random_state(draws):
        x_adv = np.asarray(attack.generate(x.copy(), some.y.copy(), **extra), dtype=np.float32)
        attacked = rounded_within(result.threat, x_adv, original)
        before, after = (_predictions(classifier, images) for images in (original, attacked))
    return [
        AttackedImage(name, attack_name, int(some.ids[i]), int(some.y[i]), int(after[i]), original[i], attacked[i])
        for i in range(len(x))
        if before[i] == some.y[i] != after[i]
    ]


def _levels(x: npt.NDArray[np.float32]) -> _Image:
    return (255 * x).round().clip(0, 255).astype(np.uint8)


def rounded_within(threat: ThreatModel, x_adv: npt.NDArray[np.float32], original: _Image) -> _Image:
    """Round attacked images to 8 bits so that they stay in the ball around originals of 8 bits.

    Rounding may leave the ball: then the perturbation is shortened first, by as little as suffices.

    Args:
        threat: The threat model, for images in [0, 1].
        x_adv: (n, C, H, W), in the ball but for errors of rounding.
        original: (n, C, H, W).
    """
    delta = 255 * x_adv.astype(np.float64) - original
    attacked, left = original.copy(), np.ones(len(original), dtype=bool)
    for share in np.linspace(1, 0, 101):
        closer = (original + share * delta).round().clip(0, 255).astype(np.uint8)
        fits = left & is_within(threat, closer, original)
        attacked[fits] = closer[fits]
        left &= ~fits
        if not left.any():
            break
    return attacked


def is_within(threat: ThreatModel, attacked: _Image, original: _Image) -> npt.NDArray[np.bool_]:
    """Return whether images of 8 bits lie in the ball around others, (n,)."""
    delta = torch.from_numpy((attacked.astype(np.float64) - original) / 255)
    inside: npt.NDArray[np.bool_] = threat.size(delta).numpy() <= threat.eps * (1 + 1e-9)
    return inside


def _predictions(classifier: Any, images: _Image) -> npt.NDArray[np.int64]:
    """Return what the network itself predicts, in float32 and eval mode."""
    module = MicroBatches(art_interface.logits_module(classifier))
    most = usual_batch_size(classifier.device, classifier.input_shape)
    batches = torch.from_numpy(images.astype(np.float32) / 255).split(most)
    logits = [art_interface.exact_logits(module, b.to(classifier.device), classifier.nb_classes).cpu() for b in batches]
    labels: npt.NDArray[np.int64] = torch.cat(logits).argmax(1).numpy()
    return labels
