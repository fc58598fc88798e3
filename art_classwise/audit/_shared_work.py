"""Who computes which shard: any number of processes fill one store, without knowing of each other."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from art_classwise.audit.store import DamagedShardError, MissingShardError, Store, Unit

__all__ = ["drop_damaged", "fill"]

_LONGEST_NAP = 0.4  # seconds: who waits at the end waits for a shard, and must see it soon


def fill(
    store: Store,
    chains: Sequence[Sequence[Unit]],
    compute: Callable[[Unit], pd.DataFrame],
    *,
    in_order: bool,
    first: int = 0,
    progress: Callable[[Iterable[Unit]], object] = lambda units: None,
) -> None:
    """Compute all units that aren't there; return once all are, whoever computed them.

    A unit that another process is computing is left to it. If that process dies, or gives up, the unit is taken over.

    Args:
        store: Where the units lie.
        chains: Units that belong together: of the same examples.
        compute: Returns a unit's outcomes.
        in_order: Whether a unit of a chain needs those before it.
        first: The chain to begin with: processes that begin apart read different images.
        progress: Told of units that are there, of each once.
    """
    nap, told = 0.05, set[Unit]()
    while True:
        done = _there(store, chains)  # anew: damaged ones go
        progress(done - told)
        told |= done
        waiting = worked = False
        for chain in [*chains[first:], *chains[:first]]:
            for unit in chain:
                if unit in done:
                    continue
                with store.claim(unit) as mine:
                    if mine and not store.has(unit):
                        try:
                            store.write(unit, compute(unit))
                        except DamagedShardError as damaged:  # one before it, which it needs
                            drop_damaged(store, damaged)
                            mine = False
                        except MissingShardError:  # another process found that one damaged
                            mine = False
                        worked = True
                if mine:
                    progress({unit} - told)
                    told.add(unit)
                    continue
                waiting = True
                if in_order:
                    break
        if not waiting:
            store.tidy(told)
            return
        nap = 0.05 if worked else min(2 * nap, _LONGEST_NAP)
        time.sleep(nap)


def drop_damaged(store: Store, damaged: DamagedShardError) -> bool:
    """Remove a damaged shard, and say which; of processes that find it at once, one does.

    Returns:
        Whether it was this process.
    """
    mine = store.drop(damaged)
    if mine:
        warnings.warn(
            f"The shard {damaged.path.absolute()} is damaged: {damaged.why}. It is computed anew.", stacklevel=2
        )
    return mine


def _there(store: Store, chains: Sequence[Sequence[Unit]]) -> set[Unit]:
    units = {unit for chain in chains for unit in chain}
    held = {pair: store.shards(*pair) for pair in {(unit.model, unit.attack) for unit in units}}
    return {unit for unit in units if unit.shard in held[unit.model, unit.attack]}
