"""What is said of options that a command doesn't have, and of values that they don't take."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from art_classwise.cli._messages import OPTIONS

__all__ = ["mend"]

# What other tools, and people, call options.
_OTHERS = {
    "--threat": "epsilon radius ball threat-model p-norm lp",
    "--attacks": "attack ladder",
    "--attack": "attacks",
    "--dataset": "data data-set images testset",
    "--data-dir": "root data-root data-path",
    "--out": "o output output-dir outdir save store folder checkpoint dir",
    "--device": "gpu cuda cpu",
    "--batch-size": "batch bs batchsize",
    "--examples": "n num-examples samples n-samples num-samples limit",
    "--arch": "network net architecture",
    "--model": "models checkpoint weights ckpt m net network",
    "--models": "model",
    "--epochs": "epoch num-epochs",
    "--lr": "learning-rate lr0",
    "--steps": "iterations iters num-steps n-iter",
    "--json": "format",
    "--quiet": "q silent",
    "--class-policy": "policy",
    "--on": "engine executor workers",
    "--index": "rank",
    "--latex": "tex",
    "--groups": "group superclasses",
    "--class": "classes",
}


def mend(error: Any, command: str, options: Collection[str]) -> None:
    """Let an error in how a command is used name what was meant.

    Args:
        error: Of Typer's; what isn't about an option or its value stays as it is.
        command: Name of the command.
        options: Those that it has, ``"--out"``.
    """
    if hasattr(error, "possibilities") and hasattr(error, "option_name"):
        error.possibilities = _meant(error.option_name, command, options)
    elif isinstance(getattr(error, "message", None), str):
        error.message = _value(error.message)


def _meant(given: str, command: str, options: Collection[str]) -> list[str]:
    name = given.lstrip("-").replace("_", "-").lower()
    parameter = OPTIONS.get(command, {}).get(name.replace("-", "_"))
    known = [option for option, others in _OTHERS.items() if name in others.split() and option in options]
    if parameter in options and parameter is not None:
        known.insert(0, parameter)
    if len(name) > 2:
        known += [option for option in sorted(options) if option.startswith(f"--{name}-")]
    return list(dict.fromkeys(known)) or get_close_matches(f"--{name}", sorted(options), n=3, cutoff=0.75)


def _value(message: str) -> str:
    """Return a message as a person says it, not pydantic, which Typer reads values by."""
    message = message.removeprefix("Value error, ")
    for kind, what in (("integer", "a whole number"), ("number", "a number")):
        message = re.sub(rf"^Input should be a valid {kind}.*", f"It must be {what}.", message, flags=re.DOTALL)
    return message
