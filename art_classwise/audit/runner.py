"""How a shard of an audit is computed: outcomes without attack and under one, and what they cost."""

from __future__ import annotations

import threading
import time
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from art_classwise import losses
from art_classwise._core import art_interface
from art_classwise._core.forward import (
    MicroBatches,
    Passes,
    computing_at_most,
    counted,
    is_out_of_memory,
    release,
    usual_batch_size,
    warn_of_probabilities,
)
from art_classwise._core.state import preserved, preserved_random_state
from art_classwise.attacks.corruption import is_adversary
from art_classwise.audit import probes
from art_classwise.audit.outcomes import DISTANCE, MEASURED, OUTCOMES
from art_classwise.datasets import Dataset
from art_classwise.errors import GradientMaskingWarning, InputError, first_line
from art_classwise.threat import CORRUPTIONS, ThreatModel

__all__ = ["ONE_AT_A_TIME", "ProbeExamples", "ShardRunner", "probe_examples", "shard_of"]

T = TypeVar("T")

_VANISHING = "Gradients vanish through a softmax, so gradient attacks look weaker than they are"

_SMALL = 3 * 64 * 64  # values of an image: of larger ones, fewer are tried

ONE_AT_A_TIME = threading.RLock()  # the global random state and the warning filters are all threads'


class ProbeExamples(NamedTuple):
    """What a network itself is tried on.

    Attributes:
        few: Some of all examples.
        attacked: Of those that withstood, or were right without attack; None where there is none.
        more: More of all.
    """

    few: Dataset
    attacked: Dataset | None
    more: Dataset


def probe_examples(data: Dataset, outcomes: pd.DataFrame, corruptions: Collection[str] = ()) -> ProbeExamples:
    """Choose what a network itself is tried on.

    Args:
        data: All examples.
        outcomes: The network's rows of the one table.
        corruptions: Names of those attacks that are no adversaries; where all are, none of the examples is attacked.
    """
    n, ids = len(data), data.ids
    outcomes = outcomes[~outcomes["attack"].isin([*corruptions])] if corruptions else outcomes
    right = outcomes["label"] == outcomes["clean_prediction"]
    held, correct = (
        np.isin(ids, outcomes["example"][~outcomes["example"].isin(outcomes["example"][~flags])])
        for flags in (outcomes["withstood"], right)
    )
    attacked = probes.attacked_rows(held, correct) if len(outcomes) else np.zeros(0, np.int64)
    small = np.prod(data.input_shape) <= _SMALL
    rows = (probes.spread_over(n), attacked, probes.spread_over(n, 256 if small else 64))
    few, to_attack, more = (
        None if len(one) == 0 else some.with_images(np.asarray(some.x))
        for one in rows
        for some in [data.take(one) if len(one) else data]
    )
    assert few is not None and more is not None  # noqa: PT018
    return ProbeExamples(few, to_attack, more)


def shard_of(data: Dataset, shard: int, size: int) -> Dataset:
    """Return the examples of a shard."""
    return data.take(np.arange(shard * size, min((shard + 1) * size, len(data))))


@dataclass
class _Cost:
    passes: Passes
    seconds: float = 0.0

    def shared(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Add what a shard cost, shared equally by its examples."""
        of = {"forwards": self.passes.forwards, "backwards": self.passes.backwards, "seconds": self.seconds}
        return frame.assign(**{name: np.float32(value / max(1, len(frame))) for name, value in of.items()})


@contextmanager
def _costs(classifier: Any) -> Iterator[_Cost]:
    # One at a time: a thread that waits for another costs nothing, and a network may be both threads'.
    with ONE_AT_A_TIME, counted(classifier) as passes:
        begun = time.perf_counter()
        cost = _Cost(passes)
        yield cost
        cost.seconds = time.perf_counter() - begun


def _outcomes(
    data: Dataset, logits: torch.Tensor, sizes: npt.NDArray[np.float32], zero: npt.NDArray[np.bool_]
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "example": data.ids.astype(np.int64),
            "label": data.y.astype(np.int32),
            "prediction": logits.argmax(1).numpy().astype(np.int32),
            "margin": -losses.margin(logits, torch.from_numpy(data.y)).numpy(),
            "perturbation": sizes,
            "zero_gradient": zero,
        }
    )


class ShardRunner:
    """Computes outcomes of shards of a data set, with and without attack.

    Args:
        data: All examples; or a function that returns those of a shard.
        threat: What attacks may do.
        shard_size: Examples per shard.
        seed: Of attacks that draw from the global random state.
        batch_size: Examples computed at once; if absent, by their size and the device. Where memory runs out, it is
            halved.
    """

    def __init__(
        self,
        data: Dataset | Callable[[int], Dataset],
        threat: ThreatModel,
        *,
        shard_size: int,
        seed: int,
        batch_size: int | None,
    ) -> None:
        self._data, self._threat, self._shard_size, self._seed = data, threat, shard_size, seed
        self._batch_size, self._ran_out = batch_size, False
        self._shard: tuple[int, Dataset] | None = None

    def clean(self, classifier: Any, shard: int) -> pd.DataFrame:
        """Return outcomes without attack, with the columns of :data:`art_classwise.audit.outcomes.OUTCOMES`."""
        data = self._examples(shard)
        with _costs(classifier) as cost:
            logits = self._retried(classifier, lambda most: self._logits(classifier, data, most))
        if shard == 0:
            warn_of_probabilities(logits, classifier.model, _VANISHING, stacklevel=3)
        none = np.zeros(len(data), np.float32)
        return cost.shared(_outcomes(data, logits, none, none.astype(bool)))

    def attacked(
        self, classifier: Any, name: str, attack: Any, shard: int, rows: npt.NDArray[np.intp] | None = None
    ) -> pd.DataFrame:
        """Return outcomes under an attack, with the columns of :data:`art_classwise.audit.outcomes.OUTCOMES`.

        Of an attack that looks for the smallest perturbations, whose attribute ``measures_distance`` is True, with
        those of :data:`art_classwise.audit.outcomes.MEASURED`: an example is broken if the smallest lies within the
        radius, and its size is noted beyond, too.

        Args:
            classifier: The model.
            name: Of the attack.
            attack: An ART evasion attack on the model.
            shard: Number of the shard.
            rows: Which of its examples; all if absent.

        Raises:
            InputError: The attack returns something else than images, or the model's logits aren't finite.
        """
        data = self._examples(shard)
        if rows is not None and len(rows) == 0:
            none: pd.DataFrame = (
                (MEASURED if getattr(attack, "measures_distance", False) else OUTCOMES).empty_table().to_pandas()
            )
            return none
        some = data if rows is None or len(rows) == len(data) else data.take(rows)
        with _costs(classifier) as cost:
            frame = self._retried(classifier, lambda most: self._attacked(classifier, name, attack, shard, some, most))
        return cost.shared(frame)

    def probe(self, classifier: Any, examples: ProbeExamples) -> probes.Probe:
        """Return what a few examples show of the network itself.

        Args:
            classifier: The model.
            examples: What :func:`probe_examples` chose.
        """
        with ONE_AT_A_TIME:
            return self._retried(
                classifier,
                lambda most: probes.probe(classifier, *examples, self._threat, most=most, seed=self._seed),
            )

    def _attacked(self, classifier: Any, name: str, attack: Any, shard: int, data: Dataset, most: int) -> pd.DataFrame:
        x, y = np.asarray(data.x), data.y
        extra = {"example_ids": data.ids} if getattr(attack, "uses_example_ids", False) else {}
        # Others' attacks draw their numbers batch by batch: that is changed in need only. And they may write into what
        # they are given, which would move the centre of the ball.
        ours = bool(extra) or hasattr(attack, "micro_batch_size")
        given = (x, y) if ours else (x.copy(), y.copy())
        # ART's attacks leave the model in eval mode and write gradients into its weights.
        with (
            ONE_AT_A_TIME,
            preserved(classifier.model),
            preserved_random_state(zlib.crc32(f"{self._seed} {name} {shard * self._shard_size}".encode())),
            computing_at_most(attack, most) if ours or self._ran_out else nullcontext(),
            warnings.catch_warnings(),
        ):
            # The findings say it, from the outcomes and the parameters.
            warnings.simplefilter("ignore", GradientMaskingWarning)
            warnings.filterwarnings("ignore", message="AutoAttack ran without")
            x_adv = np.asarray(attack.generate(*given, **extra), dtype=np.float32)
        if x_adv.shape != x.shape or not np.isfinite(x_adv).all():
            raise InputError(
                f"The attack {name!r} must return finite images of shape {x.shape}, but returned "
                f"{'values that are not finite' if x_adv.shape == x.shape else f'shape {x_adv.shape}'}."
            )
        zero = np.asarray(getattr(attack, "zero_gradient", []), dtype=bool)
        if not x_adv.flags.writeable:
            x_adv = x_adv.copy()
        measures = getattr(attack, "measures_distance", False)
        asked = x_adv.copy() if measures else x_adv
        sizes = np.empty(len(x), np.float32)
        threat = self._threat if is_adversary(attack) else CORRUPTIONS
        low, high = torch.tensor(0.0), torch.tensor(1.0)
        for begin in range(0, len(x), most):  # in place and bit by bit: images of a shard may be large
            some = slice(begin, begin + most)
            original = torch.from_numpy(x[some])
            inside = threat.project(torch.from_numpy(x_adv[some]), original, low, high)
            sizes[some] = threat.size(inside - original).numpy()
            x_adv[some] = inside.numpy()
        logits = self._logits(classifier, data, most, x_adv)
        outcomes = _outcomes(data, logits, sizes, zero if len(zero) == len(y) else np.zeros(len(y), dtype=bool))
        if not measures:
            return outcomes
        distance = np.where(logits.argmax(1).numpy() != y, sizes, np.float32(np.inf))
        beyond = np.flatnonzero((asked != x_adv).reshape(len(x), -1).any(1) & np.isinf(distance))
        if len(beyond):
            some_data, clipped = data.take(beyond), asked[beyond].clip(0, 1)
            wrong = self._logits(classifier, some_data, most, clipped).argmax(1).numpy() != y[beyond]
            reached = self._threat.size(torch.from_numpy(clipped - x[beyond])).numpy()
            distance[beyond[wrong]] = reached[wrong]
        return outcomes.assign(**{DISTANCE: distance.astype(np.float32)})

    def _examples(self, shard: int) -> Dataset:
        """Return a shard's examples, read once for all attacks on them."""
        held = self._shard  # which another thread may replace at any time
        if held is None or held[0] != shard:
            held = self._shard = None  # before the next is read
            data = self._data(shard) if callable(self._data) else shard_of(self._data, shard, self._shard_size)
            held = self._shard = shard, data.with_images(np.asarray(data.x))
        return held[1]

    def _logits(
        self, classifier: Any, data: Dataset, most: int, x: npt.NDArray[np.float32] | None = None
    ) -> torch.Tensor:
        """Return float32 logits on the CPU, in eval mode, of the examples or of images in their place."""
        module, device = MicroBatches(art_interface.logits_module(classifier)), classifier.device
        batches = torch.from_numpy(np.asarray(data.x) if x is None else x).split(most)
        # Networks and ART's defences that draw numbers as they predict draw the same ones again after a kill.
        with ONE_AT_A_TIME, preserved_random_state(zlib.crc32(f"{self._seed} {data.ids[0]}".encode())):
            parts = [art_interface.exact_logits(module, b.to(device), classifier.nb_classes).cpu() for b in batches]
        logits = torch.cat(parts)
        finite = logits.isfinite().all(1)
        if not finite.all():
            first = data.ids[int(finite.int().argmin())]
            raise InputError(f"The model returns logits that are not finite, first for example {first}.")
        return logits

    def _retried(self, classifier: Any, compute: Callable[[int], T]) -> T:
        """Return what is computed with so many examples at once as there is memory for."""
        most = self._batch_size or usual_batch_size(classifier.device, classifier.input_shape)
        while True:
            try:
                return compute(most)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside of the except block, which keeps what was computed alive.
            if most == 1:
                raise InputError(f"There isn't enough memory for a single example ({reason}): free some.")
            release()
            most //= 2
            self._batch_size, self._ran_out = most, True
            warnings.warn(f"Out of memory ({reason}): continuing with {most} examples at a time.", stacklevel=2)
