"""Of several attacks, the row that broke an example or came nearest to it: compared with one found row by row."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from art_classwise.audit.outcomes import AuditTable, nearest, part, parts, parts_of

MARGINS = (-np.inf, -1.0, -0.0, 0.0, 0.5, np.inf, np.nan)


def outcomes(rng: np.random.Generator, *, alike: bool) -> pd.DataFrame:
    """Rows of two models under three attacks, with ties and with margins that aren't numbers."""
    parts = []
    for model in ("one", "two"):
        examples = rng.permutation(50)[:9]
        for attack in ("a", "b", "c"):
            chosen = examples if alike else rng.permutation(examples)[: rng.integers(1, 10)]
            made = {"model": model, "attack": attack, "example": chosen, "prediction": rng.integers(0, 9, len(chosen))}
            withstood = rng.random(len(chosen)) < 0.6
            parts.append(pd.DataFrame({**made, "withstood": withstood, "margin": rng.choice(MARGINS, len(chosen))}))
    return pd.concat(parts, ignore_index=True).astype({"model": "category", "attack": "category"})


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_row_that_a_search_of_all_finds(seed, alike):
    table = outcomes(np.random.default_rng(seed), alike=alike)
    found = nearest(table, "all attacks")
    assert list(found) == list(table)
    assert set(found["attack"]) == {"all attacks"}
    assert found[["model", "example"]].equals(table[["model", "example"]].drop_duplicates(ignore_index=True))
    for row in found.itertuples():
        of = table[(table["model"] == row.model) & (table["example"] == row.example)]
        of = of[~of["withstood"]] if not of["withstood"].all() else of
        known = of[of["margin"] == of["margin"].min()] if of["margin"].notna().any() else of
        first = known.iloc[0]
        assert (row.withstood, row.prediction) == (first["withstood"], first["prediction"])
        np.testing.assert_equal(row.margin, first["margin"])


@pytest.mark.parametrize("order", ["as audits have it", "shuffled", "by example"])
def test_parts_are_the_same_wherever_their_rows_stand(order):
    table = outcomes(np.random.default_rng(0), alike=True)
    table = {"shuffled": table.sample(frac=1, random_state=0), "by example": table.sort_values("example")}.get(
        order, table
    )
    audit = AuditTable(table, None)
    for model, attack in product(("one", "two"), "abc"):
        rows = part(audit, model, attack)
        expected = table[(table["model"] == model) & (table["attack"] == attack)]
        assert rows.equals(expected)
        assert parts_of(audit, model)[attack].equals(parts(table)[model, attack])
        rows["withstood"] = False  # whoever writes into it writes into no one else's
        assert part(audit, model, attack).equals(expected)
