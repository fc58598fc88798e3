"""art-classwise: robustness class by class, for the Adversarial Robustness Toolbox (ART).

The public names are those of ``__init__.pyi``. They are imported when first used: ``import art_classwise`` itself loads
neither torch nor ART.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import lazy_loader

from art_classwise._core import display

__version__ = "0.1.0"

display.attach(
    notebook="art_classwise.report.notebook", page="art_classwise.report.page", latex="art_classwise.report.latex"
)
_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Public here in 0.1.0, and the subpackage that has the name now.
_MOVED = {
    "Comparison": "audit",
    "ExclusionResult": "studies",
    "Finding": "audit",
    "SeedSpread": "studies",
    "load_unlabeled": "datasets",
    "normalize_head": "head",
    "published": "zoo",
    "read_checkpoint": "zoo",
    "robustbench_files": "zoo",
    "robustbench_names": "zoo",
    "robustbench_table": "zoo",
}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        module = f"{__name__}.{_MOVED[name]}"
        message = f"{__name__}.{name} has moved to {module}.{name}; the old name will be removed in 0.3."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(module), name)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _public_name(name)
