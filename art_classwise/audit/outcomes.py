"""The one table of outcomes, a row per model, attack and example: stored, put together, and counted by class."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from art_classwise import metrics
from art_classwise._core.display import Shown, shown_as
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.manifest import Manifest
from art_classwise.errors import InputError, first_line, unknown
from art_classwise.metrics.accuracy import class_counts
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
    "nearest",
    "no_costs",
    "parts",
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

_UNDER_ATTACK = ["prediction", "withstood", "margin", "perturbation", "zero_gradient"]


class MisfitError(ValueError):
    """An attack was tried on other examples than those left to it.

    Attributes:
        place: Which of the attacks.
    """

    def __init__(self, place: int, why: str) -> None:
        super().__init__(why)
        self.place = place


def joined(clean: pd.DataFrame, attacked: pd.DataFrame) -> pd.DataFrame:
    """Return one attack's part of the one table.

    Args:
        clean: As :data:`OUTCOMES`, without attack.
        attacked: As :data:`OUTCOMES`, of some of these examples.

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
            "withstood": (before == label) & (columns["prediction"] == label),
            "clean_margin": clean["margin"].to_numpy(),
            **{name: columns[name] for name in ("margin", "perturbation", "zero_gradient")},
            **measured,
        }
    )


def assembled(clean: pd.DataFrame, attacked: Sequence[pd.DataFrame], *, worst_case: bool) -> list[pd.DataFrame]:
    """Return the attacks' parts of the one table, on the examples of a shard.

    Args:
        clean: As :data:`OUTCOMES`, without attack.
        attacked: As :data:`OUTCOMES`, of each attack, in order.
        worst_case: Whether each attack was tried on those alone that had withstood so far.

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
        tables.append(joined(clean, rows))
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
        names = np.repeat([pair[place] for pair in pairs], lengths)
        whole.insert(place, column, pd.Series(names, dtype=pd.CategoricalDtype(list(order))))
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
    keys = ["model", "example"]
    first = outcomes.sort_values(["withstood", "margin"], kind="stable").drop_duplicates(keys)
    examples = outcomes[keys].drop_duplicates()
    rows = examples.merge(first, on=keys, how="left", sort=False)[list(outcomes)]
    return rows.assign(attack=pd.Categorical([name] * len(rows), categories=[name]))


def to_parquet(frame: pd.DataFrame, schema: pa.Schema) -> bytes:
    """Return a shard as the content of a file.

    Args:
        frame: With the schema's columns.
        schema: :data:`art_classwise.audit.outcomes.OUTCOMES`, or ``MEASURED``.
    """
    # Column by column: a frame's NaN would become nulls.
    columns = [pa.array(frame[field.name].to_numpy(dtype=field.type.to_pandas_dtype())) for field in schema]
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
    robust = class_counts(label, rows["withstood"].to_numpy(), len(names), **options)
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
    row: dict[str, Any] = {
        **metrics.mean_accuracy(label, right, len(classes)).add_prefix("clean_").rename({"clean_mean": "clean"}),
        **metrics.disparity(table["robust"].to_numpy()),
        **metrics.mean_accuracy(label, withstood, len(classes)).drop("mean").add_prefix("mean_"),
        "worst_class": table["robust"].idxmin(),
        **dict.fromkeys(("held_out", "worst_low", "worst_high", "p"), np.nan),
        "left_out": int(np.count_nonzero(table["n"] == 1)),
    }
    with suppress(InputError):  # no class has two examples
        worst = metrics.worst_class(label, withstood, len(classes))
        row |= {"held_out": worst["accuracy"], "worst_low": worst["low"], "worst_high": worst["high"]}
    with suppress(InputError):  # a single class has examples
        row["p"] = metrics.disparity_test(label, withstood, len(classes))["p"]
    return row


def no_costs() -> pd.DataFrame:
    """Return a table of costs in which nothing is known."""
    index = pd.MultiIndex.from_arrays([[], []], names=["model", "attack"])
    return pd.DataFrame(columns=["n", *COSTS], index=index, dtype=float)


@dataclass(frozen=True, eq=False, repr=False)
class AuditTable(Shown):
    """The outcomes of an audit, without what is concluded from them: see :class:`art_classwise.AuditResult`."""

    outcomes: pd.DataFrame
    manifest: Manifest
    missing: tuple[str, ...] = ()
    costs: pd.DataFrame = field(default_factory=no_costs)

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
        return tuple(self.outcomes["model"].cat.categories)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order they were given."""
        return tuple(self.outcomes["attack"].cat.categories)

    @cached_property
    def _nearest(self) -> pd.DataFrame:
        return nearest(self.outcomes, WORST_CASE)

    def rows(self, model: str | None = None, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return the outcomes of one model under one attack: what any metric is a function of.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``: of each example the row of the attack that broke it by the
                largest margin, or came nearest to breaking it.

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
        if attack not in (*self.attacks, WORST_CASE):
            raise unknown("attack", attack, (*self.attacks, WORST_CASE))
        table = self._nearest if attack == WORST_CASE else self.outcomes[self.outcomes["attack"] == attack]
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
        return shown_as(self._told(table), "classes")

    def _told(self, table: pd.DataFrame) -> pd.DataFrame:
        """Write on a table what audits it is of, for the files that are made of it."""
        return table
