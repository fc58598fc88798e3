"""What the page of an audit shows besides outcomes: attacked images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from art_classwise.errors import InputError, first_line

if TYPE_CHECKING:
    from art_classwise.audit import AuditResult
    from art_classwise.datasets import Dataset

__all__ = ["with_kept_images"]


def with_kept_images(
    result: AuditResult,
    models: Mapping[str, Any],
    data: Dataset,
    place: str | os.PathLike[str],
    *,
    verbose: bool = False,
) -> AuditResult:
    """Return an audit with attacked images: those that are kept in its folder, else new ones, which are kept there.

    The audit is finished by then: what fails here is a warning. Models that are loaded one at a time stay unloaded.
    """
    if not result.adversaries:  # a corruption's images lie in its folder
        return result
    from dataclasses import replace

    from art_classwise.audit.image_file import keep_images, read_images
    from art_classwise.audit.store import Store

    store = Store(place)
    in_memory = {name: model for name, model in models.items() if hasattr(model, "predict") and name in result.models}
    try:
        kept = read_images(store, result.outcomes)
    except InputError:  # damaged: they are made anew
        kept = ()
    if (kept and {one.model for one in kept} >= in_memory.keys()) or not in_memory:
        return replace(result, images=kept)
    try:
        made = result.with_images(in_memory, data, verbose=verbose)
        sealed = keep_images(made.images, made.manifest, store)
    except Exception as error:  # of the model's own code: of any kind
        warnings.warn(f"The page is without attacked images: {first_line(error)}", stacklevel=2)
        return result
    return replace(made, sealed=() if sealed is None else (sealed,))
