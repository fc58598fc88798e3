"""The one table of outcomes, a row per model, attack and example: stored, put together, and counted by class."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from art_classwise import metrics
from art_classwise._core.display import Shown, shown_as
from art_classwise.attacks.ladder import WORST_CASE, is_quick_estimate
from art_classwise.audit.corrupted import (
    ALL_CORRUPTIONS,
    MEAN_CORRUPTION,
    described_corruptions,
    is_described_corruption,
)
from art_classwise.audit.manifest import Manifest
from art_classwise.errors import InputError, first_line, unknown
from art_classwise.metrics.accuracy import class_counts
from art_classwise.metrics.shares import class_shares, mean_share, share_test, worst_share
from art_classwise.threat import ThreatModel

__all__ = [
    "COLUMNS",
    "COSTS",
    "DISTANCE",
    "MEASURED",
    "OUTCOMES",
    "VERDICTS",
    "AuditTable",
    "MisfitError",
    "Relabel",
    "accuracies",
    "assembled",
    "cumulative",
    "disassembled",
    "from_parquet",
    "joined",
    "kept",
    "mean_corruption",
    "nearest",
    "no_costs",
    "part",
    "parts",
    "parts_of",
    "read_older",
    "stacked",
    "summarised",
    "table",
    "to_parquet",
]

_TYPES = {
    "example": pa.int64(),
    "label": pa.int32(),
    "prediction": pa.int32(),
    "margin": pa.float32(),
    "perturbation": pa.float32(),
    "zero_gradient": pa.bool_(),
    "forwards": pa.float32(),
    "backwards": pa.float32(),
    "seconds": pa.float32(),
}


def _schema(*names: str) -> pa.Schema:
    return pa.schema([pa.field(name, _TYPES[name], nullable=False) for name in names])


OUTCOMES = _schema(*_TYPES)
"""What is kept of a model, without attack or under one, a row per example that was attacked: what came of it, and what
it cost: passes through the network and seconds, each shared equally by the examples of a shard. NaN where the cost
isn't known."""

DISTANCE = "distance"
"""The column that attacks which look for the smallest perturbation add: of each example the norm of the smallest that
was found, whatever the radius; 0 where the model is wrong without attack, infinite where none was found."""

MEASURED = OUTCOMES.append(pa.field(DISTANCE, pa.float32(), nullable=False))
""":data:`OUTCOMES` under such an attack."""

COSTS = ("forwards", "backwards", "seconds")
"""Those columns that say what an outcome cost, which may differ from one time to the next."""

VERDICTS = tuple(name for name in _TYPES if name not in COSTS)
"""Those that say what came of it."""

_OLDER_CLEAN = _schema("example", "label", "prediction", "margin")
_OLDER_ATTACKED = _schema("example", "prediction", "margin", "perturbation", "zero_gradient")

COLUMNS = {
    "model": "category",
    "attack": "category",
    "example": "int64",
    "label": "int32",
    "clean_prediction": "int32",
    "prediction": "int32",
    "withstood": "bool",
    "clean_margin": "float32",
    "margin": "float32",
    "perturbation": "float32",
    "zero_gradient": "bool",
}
"""Columns of the one table, and their types; :data:`DISTANCE`, float32, stands there, too, if an attack measures it."""

_COPY_ON_WRITE = int(pd.__version__.partition(".")[0]) >= 3  # writing into a part of a table leaves the table alone

_UNDER_ATTACK = ["prediction", "withstood", "margin", "perturbation", "zero_gradient"]


class MisfitError(ValueError):
    """An attack was tried on other examples than those left to it.

    Attributes:
        place: Which of the attacks.
    """

    def __init__(self, place: int, why: str) -> None:
        super().__init__(why)
        self.place = place


def joined(clean: pd.DataFrame, attacked: pd.DataFrame, *, adversary: bool = True) -> pd.DataFrame:
    """Return one attack's part of the one table.

    Args:
        clean: As :data:`OUTCOMES`, without attack.
        attacked: As :data:`OUTCOMES`, of some of these examples.
        adversary: Whether the attack is one; a corruption isn't, and may mend what is wrong without it.

    Returns:
        Without ``model`` and ``attack``; an example that was not attacked keeps its clean prediction: it has withstood
        if that is right.
    """
    for examples in (clean["example"], attacked["example"]):
        if examples.duplicated().any():
            raise ValueError(f"example {examples[examples.duplicated()].iloc[0]} appears twice")
    rows = pd.Index(clean["example"]).get_indexer(pd.Index(attacked["example"]))
    if (rows < 0).any():
        raise ValueError(f"example {attacked['example'].iloc[int((rows < 0).argmax())]} was attacked but not requested")
    label, before = clean["label"].to_numpy(), clean["prediction"].to_numpy()
    columns = {
        "prediction": before.copy(),
        "margin": clean["margin"].to_numpy().copy(),
        "perturbation": np.zeros(len(clean), np.float32),
        "zero_gradient": np.zeros(len(clean), bool),
    }
    if DISTANCE in attacked:
        # Of an example that another attack had broken before, the smallest perturbation isn't known.
        columns[DISTANCE] = np.where(before == label, np.nan, 0).astype(np.float32)
    for name, values in columns.items():
        values[rows] = attacked[name].to_numpy()
    measured = {name: columns[name] for name in (DISTANCE,) if name in columns}
    return pd.DataFrame(
        {
            "example": clean["example"].to_numpy(),
            "label": label,
            "clean_prediction": before,
            "prediction": columns["prediction"],
            # Misclassified without attack is not withstood, even if an attack happens to mend it.
            "withstood": ((before == label) | (not adversary)) & (columns["prediction"] == label),
            "clean_margin": clean["margin"].to_numpy(),
            **{name: columns[name] for name in ("margin", "perturbation", "zero_gradient")},
            **measured,
        }
    )


def assembled(
    clean: pd.DataFrame,
    attacked: Sequence[pd.DataFrame],
    *,
    worst_case: bool,
    adversaries: Sequence[bool] | None = None,
) -> list[pd.DataFrame]:
    """Return the attacks' parts of the one table, on the examples of a shard.

    Args:
        clean: As :data:`OUTCOMES`, without attack.
        attacked: As :data:`OUTCOMES`, of each attack, in order.
        worst_case: Whether each attack was tried on those alone that had withstood so far.
        adversaries: Which of the attacks are adversaries; all if absent.

    Raises:
        MisfitError: An attack was tried on other examples.
        ValueError: An example stands twice.
    """
    examples = clean["example"].to_numpy()
    withstanding = (clean["prediction"] == clean["label"]).to_numpy()
    tables: list[pd.DataFrame] = []
    for place, rows in enumerate(attacked):
        expected = examples[withstanding] if worst_case else examples
        if not np.array_equal(expected, rows["example"]):
            why = f"{len(expected)} examples were left to attack, but other {len(rows)} were attacked"
            raise MisfitError(place, why)
        tables.append(joined(clean, rows, adversary=adversaries is None or adversaries[place]))
        withstanding = withstanding & tables[-1]["withstood"].to_numpy()
    return [*cumulative(tables)] if worst_case else tables


def disassembled(tables: Sequence[pd.DataFrame], *, worst_case: bool) -> list[pd.DataFrame]:
    """Return what :func:`assembled` makes these tables of: outcomes without attack, then those under each attack."""
    first = tables[0]
    clean = first.assign(
        prediction=first["clean_prediction"],
        margin=first["clean_margin"],
        perturbation=np.float32(0),
        zero_gradient=False,
    ).drop(columns=DISTANCE, errors="ignore")
    tables = [t.drop(columns=DISTANCE, errors="ignore") if _is_unmeasured(t) else t for t in tables]
    if not worst_case:
        return [clean, *tables]
    right = clean["prediction"] == clean["label"]
    withstanding = [right, *(rows["withstood"] for rows in tables)]
    return [clean, *(rows[attacked] for rows, attacked in zip(tables, withstanding, strict=False))]


def _is_unmeasured(rows: pd.DataFrame) -> bool:
    return DISTANCE not in rows or bool(rows[DISTANCE].isna().all())


def cumulative(tables: Sequence[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Let examples leave once they are broken: of each attack what it and those before it did, in order.

    Args:
        tables: Of each attack on a model, as :func:`joined` gives them, on the same examples in the same order.

    Yields:
        Tables alike, in which a broken example keeps the row of the attack that broke it first, and one that is
        misclassified without attack is not attacked.
    """
    if not tables:
        return
    first = tables[0]
    right = first["clean_prediction"] == first["label"]
    carried = first.assign(
        prediction=first["clean_prediction"],
        withstood=right,
        margin=first["clean_margin"],
        perturbation=np.float32(0),
        zero_gradient=False,
    )
    for attacked in tables:
        remain = carried["withstood"].to_numpy()
        merged = {name: np.where(remain, attacked[name].to_numpy(), carried[name].to_numpy()) for name in _UNDER_ATTACK}
        if DISTANCE in attacked:  # what is broken already isn't attacked; what is wrong without attack needs no step
            held = attacked[DISTANCE].to_numpy()
            merged[DISTANCE] = np.where(remain | ~right, held, np.float32(np.nan))
        carried = attacked.assign(**merged)
        yield carried


def table(rows: Mapping[tuple[str, str], pd.DataFrame], models: Sequence[str], attacks: Sequence[str]) -> pd.DataFrame:
    """Return the one table of the parts of (model, attack) pairs, in the order of the models and attacks given."""
    pairs = [(m, a) for m in models for a in attacks if (m, a) in rows]
    lengths = [len(rows[pair]) for pair in pairs]
    whole = pd.concat([rows[pair] for pair in pairs], ignore_index=True)
    for place, column, order in ((0, "model", models), (1, "attack", attacks)):
        numbers = {name: number for number, name in enumerate(order)}
        codes = np.repeat([numbers[pair[place]] for pair in pairs], lengths)
        whole.insert(place, column, pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(list(order)))))
    kinds = {name: kind for name, kind in COLUMNS.items() if kind != "category"}
    return whole.astype(kinds | ({DISTANCE: "float32"} if DISTANCE in whole else {}))


def parts(outcomes: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the part of each (model, attack) of the one table, in the order they stand there."""
    grouped = outcomes.groupby(["model", "attack"], observed=True, sort=False)
    return {
        (str(model), str(attack)): part.drop(columns=["model", "attack"]).reset_index(drop=True)
        for (model, attack), part in grouped
    }


def nearest(outcomes: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return all attacks together as one: of each model and example the row that broke it, or came nearest to it.

    Args:
        outcomes: The one table.
        name: What to call the attack.

    Returns:
        The columns of the one table, in its examples' order; of several rows that broke an example, the one of the
        least margin.
    """
    chosen = _nearest_places(outcomes)
    if chosen is None:  # models or attacks have examples of their own
        keys = ["model", "example"]
        first = outcomes.sort_values(["withstood", "margin"], kind="stable").drop_duplicates(keys)
        rows = outcomes[keys].drop_duplicates().merge(first, on=keys, how="left", sort=False)[list(outcomes)]
    else:
        rows = outcomes.take(chosen).reset_index(drop=True)
    return rows.assign(attack=pd.Categorical.from_codes(np.zeros(len(rows), np.int8), categories=pd.Index([name])))


def _nearest_places(outcomes: pd.DataFrame) -> npt.NDArray[np.int64] | None:
    """Return where the rows of :func:`nearest` stand; None unless each model's attacks have the same examples in order.

    That is how audits are put together, and sorting millions of rows would take seconds.
    """
    blocks: dict[int, list[slice]] = {}
    for model, _, run in _runs(outcomes):
        blocks.setdefault(model, []).append(run)
    example, withstood = outcomes["example"].to_numpy(), outcomes["withstood"].to_numpy()
    margin = outcomes["margin"].to_numpy().astype(np.float64)
    # As sorting has it: an unknown margin comes after all that are known.
    margin = np.where(np.isnan(margin), np.inf, np.minimum(margin, np.finfo(np.float64).max))
    places = []
    for of in blocks.values():
        own = example[of[0]]
        if any(not np.array_equal(own, example[one]) for one in of) or len(np.unique(own)) < len(own):
            return None
        withstands = np.stack([withstood[one] for one in of])
        least = np.stack([margin[one] for one in of])
        broken = withstands == withstands.all(0)  # where one attack broke it, those that did; else all
        nearest_of_these = broken & (least == np.where(broken, least, np.inf).min(0))
        places.append(np.array([one.start for one in of])[nearest_of_these.argmax(0)] + np.arange(len(own)))
    return np.concatenate(places) if places else np.zeros(0, np.int64)


def _runs(outcomes: pd.DataFrame) -> Iterator[tuple[int, int, slice]]:
    """Yield where rows of one model and attack follow each other, with the numbers of both."""
    model, attack = (outcomes[name].cat.codes.to_numpy() for name in ("model", "attack"))
    ends = [*(np.flatnonzero((np.diff(model) != 0) | (np.diff(attack) != 0)) + 1).tolist(), len(outcomes)]
    for begin, end in itertools.pairwise([0, *ends]):
        if begin < end:
            yield int(model[begin]), int(attack[begin]), slice(begin, end)


def part(audit: AuditTable, model: str, attack: str) -> pd.DataFrame:
    """Return the rows of one model under one attack, as they stand in an audit's table; none, if it has none."""
    where = audit._places.get((model, attack))
    if where is not None:
        rows = kept(audit).iloc[where]
        return rows if _COPY_ON_WRITE else rows.copy()
    return (frame := kept(audit))[(frame["model"] == model) & (frame["attack"] == attack)]


def parts_of(audit: AuditTable, model: str) -> dict[str, pd.DataFrame]:
    """Return the rows of a model under each attack, in the order they stand there, as :func:`parts` has them."""
    if not audit._places:
        rows = kept(audit)[kept(audit)["model"] == model]
        return {attack: of_attack for (_, attack), of_attack in parts(rows).items()}
    attacks = [attack for of, attack in audit._places if of == model]
    return {a: part(audit, model, a).drop(columns=["model", "attack"]).reset_index(drop=True) for a in attacks}


def mean_corruption(outcomes: pd.DataFrame, kinds: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return all corruptions together as one: of each model and example the share of them that it is right under.

    Args:
        outcomes: The one table.
        kinds: Names of the attacks that are corruptions, by the corruption without its severity: each of these counts
            alike, and so does each of its severities.

    Returns:
        The columns of the one table, in its examples' order: ``withstood`` is a share; ``prediction`` the class that is
        predicted most, ``margin`` and ``perturbation`` means.
    """
    weight = {name: 1 / (len(kinds) * len(names)) for names in kinds.values() for name in names}
    some = outcomes[outcomes["attack"].isin([*weight])]
    weights = some["attack"].map(weight).to_numpy(dtype=np.float64)
    keys = ["model", "example"]
    number = some.groupby(keys, observed=True, sort=False).ngroup().to_numpy()  # in the order of first appearance
    first = some.drop_duplicates(keys)
    total = np.bincount(number, weights)

    def mean(name: str) -> npt.NDArray[np.float64]:
        column: npt.NDArray[np.float64] = np.bincount(number, weights * some[name].to_numpy(dtype=np.float64)) / total
        return column

    votes = pd.DataFrame({"number": number, "prediction": some["prediction"].to_numpy(), "weight": weights})
    votes = votes.groupby(["number", "prediction"])["weight"].sum().reset_index()
    most = votes.sort_values("weight", ascending=False, kind="stable").drop_duplicates("number").sort_values("number")
    return first.assign(
        prediction=most["prediction"].to_numpy(dtype=np.int32),
        withstood=mean("withstood").clip(0, 1),
        margin=mean("margin").astype(np.float32),
        perturbation=mean("perturbation").astype(np.float32),
        attack=pd.Categorical([MEAN_CORRUPTION] * len(first), categories=[MEAN_CORRUPTION]),
    ).reset_index(drop=True)[list(outcomes)]


def to_parquet(frame: pd.DataFrame | Mapping[str, npt.NDArray[Any]], schema: pa.Schema) -> bytes:
    """Return a shard as the content of a file.

    Args:
        frame: With the schema's columns.
        schema: :data:`art_classwise.audit.outcomes.OUTCOMES`, or ``MEASURED``.
    """
    # Column by column: a frame's NaN would become nulls.
    columns = [pa.array(np.asarray(frame[field.name], dtype=field.type.to_pandas_dtype())) for field in schema]
    rows = pa.Table.from_arrays(columns, schema=schema)
    buffer = io.BytesIO()
    pq.write_table(
        rows.replace_schema_metadata(None),
        buffer,
        compression="zstd",
        use_dictionary=["perturbation", *COSTS],
        column_encoding={
            **dict.fromkeys(("example", "label", "prediction"), "DELTA_BINARY_PACKED"),
            **dict.fromkeys(("margin", *({DISTANCE} & {*schema.names})), "BYTE_STREAM_SPLIT"),
        },
        write_statistics=False,
        store_schema=False,
    )
    return buffer.getvalue()


def from_parquet(content: bytes, *schemas: pa.Schema) -> pa.Table:
    """Return a shard from the content of its file.

    Raises:
        ValueError: It is no Parquet, or has other columns than each of the schemas; the text says it.
    """
    try:
        read = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)  # others' tables are larger
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(first_line(error)) from error
    read = read.replace_schema_metadata(None)
    if not any(read.schema.equals(schema) for schema in schemas):
        raise ValueError(f"it has other columns than an audit's shard: {', '.join(read.schema.names)}")
    return read


def read_older(content: bytes, *, attacked: bool) -> pa.Table:
    """Return a shard that version 0.1.0 wrote, as :data:`OUTCOMES`; its cost isn't known.

    Args:
        content: Of its file.
        attacked: Whether it is of an attack. Its examples' labels then stand in the shard without attack alone, and
            are -1 here.

    Raises:
        ValueError: It is no Parquet, or has other columns.
    """
    read = from_parquet(content, _OLDER_ATTACKED if attacked else _OLDER_CLEAN)
    lacking = {"label": -1, "perturbation": 0.0, "zero_gradient": False, **dict.fromkeys(COSTS, np.nan)}
    columns = [
        read.column(name) if name in read.schema.names else pa.array([lacking[name]] * len(read), type=kind)
        for name, kind in _TYPES.items()
    ]
    return pa.table(columns, schema=OUTCOMES)


Relabel: TypeAlias = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
"""What makes groups of classes: (n,) -> (n,)."""


def accuracies(rows: pd.DataFrame, names: Sequence[str], group: Relabel, confidence: float) -> pd.DataFrame:
    """Return clean and robust accuracy of each class, or group, with Wilson intervals.

    Args:
        rows: Outcomes of one model under one attack.
        names: Of the classes, or groups.
        group: Returns the group of each label.
        confidence: Coverage of the intervals.

    Returns:
        Indexed by name: ``n``, ``clean``, ``clean_low``, ``clean_high``, ``robust``, ``robust_low``, ``robust_high``.
    """
    truth = rows["label"].to_numpy().astype(np.int64)
    label = group(truth)
    options: dict[str, Any] = {"classes": names, "confidence": confidence}
    clean = class_counts(label, truth == rows["clean_prediction"].to_numpy(), len(names), **options)
    count = class_counts if rows["withstood"].dtype == bool else class_shares
    robust = count(label, rows["withstood"].to_numpy(), len(names), **options)
    clean.columns = pd.Index(["n", "clean", "clean_low", "clean_high"])
    robust.columns = pd.Index(["n", "robust", "robust_low", "robust_high"])
    return pd.concat([clean, robust.drop(columns="n")], axis=1)


def stacked(
    tables: Sequence[pd.DataFrame], models: Sequence[str], attacks: Sequence[str], names: Sequence[str], kind: str
) -> pd.DataFrame:
    """Return :func:`accuracies` of each model under each attack as one table.

    Args:
        tables: Of the first model under each attack, then of the next.
        models: Their names.
        attacks: Their names.
        names: Of the classes, or groups.
        kind: What those are: the last level of the index, after ``model`` and ``attack``.
    """
    # Levels in the order given, not sorted by name: then the index is sorted, and look-ups are fast.
    codes = np.indices((len(models), len(attacks), len(names))).reshape(3, -1)
    levels = [list(models), list(attacks), list(names)]
    index = pd.MultiIndex(levels=levels, codes=list(codes), names=["model", "attack", kind])
    return pd.concat(tables).set_axis(index)


def summarised(rows: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Return what one model reaches under one attack, and how unequally: see :meth:`AuditResult.summary`.

    Args:
        rows: Outcomes of the model under the attack.
        classes: The class names.
    """
    table = accuracies(rows, classes, lambda label: label, 0.95)
    label, withstood = rows["label"].to_numpy().astype(np.int64), rows["withstood"].to_numpy()
    right = label == rows["clean_prediction"].to_numpy()
    shares = withstood.dtype != bool
    mean = mean_share if shares else metrics.mean_accuracy
    row: dict[str, Any] = {
        **metrics.mean_accuracy(label, right, len(classes)).add_prefix("clean_").rename({"clean_mean": "clean"}),
        **metrics.disparity(table["robust"].to_numpy()),
        **mean(label, withstood, len(classes)).drop("mean").add_prefix("mean_"),
        "worst_class": table["robust"].idxmin(),
        **dict.fromkeys(("held_out", "worst_low", "worst_high", "p"), np.nan),
        "left_out": int(np.count_nonzero(table["n"] == 1)),
    }
    with suppress(InputError):  # no class has two examples
        worst = (worst_share if shares else metrics.worst_class)(label, withstood, len(classes))
        row |= {"held_out": worst["accuracy"], "worst_low": worst["low"], "worst_high": worst["high"]}
    with suppress(InputError):  # a single class has examples
        test = metrics.disparity_test
        row["p"] = share_test(label, withstood, len(classes)) if shares else test(label, withstood, len(classes))["p"]
    return row


def no_costs() -> pd.DataFrame:
    """Return a table of costs in which nothing is known."""
    index = pd.MultiIndex.from_arrays([[], []], names=["model", "attack"])
    return pd.DataFrame(columns=["n", *COSTS], index=index, dtype=float)


def kept(table: AuditTable) -> pd.DataFrame:
    """Return the one table itself, to be read only."""
    frame: pd.DataFrame = table.__dict__["outcomes"]
    return frame


@dataclass(frozen=True, eq=False, repr=False)
class AuditTable(Shown):
    """The outcomes of an audit, without what is concluded from them: see :class:`art_classwise.AuditResult`."""

    outcomes: pd.DataFrame
    manifest: Manifest
    missing: tuple[str, ...] = ()
    costs: pd.DataFrame = field(default_factory=no_costs)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: what is concluded from them is computed anew, and needn't be picklable."""
        return {one.name: self.__dict__[one.name] for one in fields(self)}

    @property
    def finished(self) -> bool:
        """Whether all that was asked for is there."""
        return not self.missing

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""
        return self.manifest.classes

    @property
    def threat(self) -> ThreatModel:
        """The threat model."""
        return self.manifest.threat

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order they were given."""
        return tuple(kept(self)["model"].cat.categories)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order they were given."""
        return tuple(kept(self)["attack"].cat.categories)

    @cached_property
    def corruptions(self) -> tuple[str, ...]:
        """Names of the attacks that are corruptions, which nobody chooses: see :meth:`AuditResult.by_corruption`."""
        return tuple(name for name in self.attacks if is_described_corruption(self.manifest.parameters(name)))

    @cached_property
    def adversaries(self) -> tuple[str, ...]:
        """Names of the other attacks, which ``"all attacks"`` is of."""
        return tuple(name for name in self.attacks if name not in self.corruptions)

    @property
    def is_quick_estimate(self) -> bool:
        """Whether attacks are those of the ladder ``"fast"``: robust accuracies are quick upper bounds then."""
        return is_quick_estimate(self.adversaries)

    @property
    def overall(self) -> str:
        """What is asked about where no attack is named: ``"all attacks"``, or of corruptions only their mean."""
        return WORST_CASE if self.adversaries else MEAN_CORRUPTION

    @property
    def together(self) -> tuple[str, ...]:
        """Names of several attacks together that tables have: ``"all attacks"`` and ``"mean corruption"``."""
        return (WORST_CASE,) * bool(self.adversaries) + (MEAN_CORRUPTION,) * bool(self.corruptions)

    @cached_property
    def _places(self) -> dict[tuple[str, str], slice]:
        """Where the rows of a model under an attack stand, if they stand together: millions needn't be compared."""
        places: dict[tuple[str, str], slice] = {}
        for model, attack, run in _runs(kept(self)):
            pair = self.models[model], self.attacks[attack]
            if model < 0 or attack < 0 or pair in places:
                return {}
            places[pair] = run
        return places

    @cached_property
    def _kinds(self) -> dict[str, list[str]]:
        return described_corruptions({name: self.manifest.parameters(name) for name in self.attacks})

    @cached_property
    def _nearest(self) -> pd.DataFrame:
        if not self.corruptions:
            return nearest(kept(self), WORST_CASE)
        return nearest(kept(self)[kept(self)["attack"].isin(self.adversaries)], WORST_CASE)

    @cached_property
    def _nearest_corruption(self) -> pd.DataFrame:
        return nearest(kept(self)[kept(self)["attack"].isin(self.corruptions)], ALL_CORRUPTIONS)

    @cached_property
    def _mean_corruption(self) -> pd.DataFrame:
        return mean_corruption(kept(self), self._kinds)

    def rows(self, model: str | None = None, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return the outcomes of one model under one attack: what any metric is a function of.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``: of each example the row of the attack that broke it by the
                largest margin, or came nearest to breaking it. Of corruptions ``"mean corruption"``, where
                ``withstood`` is the share of them under which an example is right, each corruption counting alike;
                and ``"all corruptions"``, the one it came worst off under. Where there are only corruptions,
                ``"all attacks"`` is their mean, for nobody attacks.

        Returns:
            The columns of ``outcomes``, a row per example, in their order.

        Raises:
            InputError: The audit has no such model or attack.
        """
        if model is None:
            if len(self.models) != 1:
                raise InputError(f"The audit has {len(self.models)} models: name one, {' or '.join(self.models[:5])}.")
            (model,) = self.models
        if model not in self.models:
            raise unknown("model", model, self.models)
        known = (*self.attacks, WORST_CASE, *((MEAN_CORRUPTION, ALL_CORRUPTIONS) if self.corruptions else ()))
        if attack not in known:
            raise unknown("attack", attack, known)
        attack = self.overall if attack == WORST_CASE else attack
        if attack in self.attacks:
            rows = part(self, model, attack)
        else:
            other = self._mean_corruption if attack == MEAN_CORRUPTION else self._nearest_corruption
            table = self._nearest if attack == WORST_CASE else other
            rows = table[table["model"] == model]
        if len(rows) == 0:
            raise InputError(f"The audit has no outcome of {attack!r} on {model!r}.")
        return rows

    def class_table(
        self, model: str | None = None, attack: str = WORST_CASE, *, confidence: float = 0.95
    ) -> pd.DataFrame:
        """Return clean and robust accuracy per class of one model under one attack, with Wilson intervals.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``, under which an example must withstand each of them.
            confidence: Coverage of the intervals.

        Returns:
            Indexed by class: ``n``, ``clean``, ``clean_low``, ``clean_high``, ``robust``, ``robust_low``,
            ``robust_high``, all but the first fractions; n = 0 and NaN for a class without examples.

        Raises:
            InputError: The audit has no such model or attack.
        """
        table = accuracies(self.rows(model, attack), self.classes, lambda label: label, confidence)
        if attack == WORST_CASE and self.is_quick_estimate:
            table.attrs["quick_estimate"] = True  # for the figures that are drawn from it
        return shown_as(self._told(table), "classes")

    def _told(self, table: pd.DataFrame) -> pd.DataFrame:
        """Write on a table what audits it is of, for the files that are made of it."""
        return table


class _Kept:
    """A field that keeps a frame of its own, and hands out copies: what is written into them changes nothing here.

    What is concluded from the frame is computed once, and would be of another one else. With copy-on-write, a copy
    costs nothing until it is written into; what only reads takes :func:`kept`.
    """

    def __get__(self, table: AuditTable | None, owner: type | None = None) -> Any:
        return self if table is None else kept(table).copy(deep=not _COPY_ON_WRITE)

    def __set__(self, table: AuditTable, frame: pd.DataFrame) -> None:
        table.__dict__["outcomes"] = frame.copy(deep=not _COPY_ON_WRITE)


AuditTable.outcomes = _Kept()  # type: ignore[assignment]  # not within the class, where it would be a default
