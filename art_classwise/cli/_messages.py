"""Messages as the command line says them: with its options in place of Python's parameters."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from art_classwise.cli._method_options import NAMES
from art_classwise.errors import InputError, printable

__all__ = ["OPTIONS", "announced", "message_of", "say", "with_options"]

_SOON = 3.0  # seconds that nobody minds

_DATA = {
    "classes": "--class-names",
    "data": "--dataset",
    "dataset": "--dataset",
    "image_size": "--image-size",
    "root": "--data-dir",
}
_NETWORKS = {
    "architecture": "--arch",
    "device": "--device",
    "eps": "--threat",
    "norm": "--threat",
    "precision": "--precision",
    "seed": "--seed",
    "threat": "--threat",
}

_AUDIT = {
    **_DATA,
    **_NETWORKS,
    "attacks": "--attacks",
    "batch_size": "--batch-size",
    "checks": "--checks",
    "corruption_dir": "--corruption-dir",
    "corruptions": "--corruptions",
    "mean": "--mean",
    "model_dir": "--model-dir",
    "models": "--model",
    "n_examples": "--examples",
    "std": "--std",
    "store": "--out",
    "surrogate": "--surrogate",
    "unsafe_weights": "--unsafe-weights",
    "worst_case": "--worst-case",
}

_CERTIFY = {
    **{name: flag for name, flag in (_AUDIT | _NETWORKS).items() if name in ("architecture", "batch_size", "device")},
    **_DATA,
    "alpha": "--alpha",
    "mean": "--mean",
    "model_dir": "--model-dir",
    "n": "--samples",
    "n_examples": "--examples",
    "n_selection": "--selection",
    "noise": "--noise",
    "radii": "--radii",
    "seed": "--seed",
    "std": "--std",
    "store": "--out",
    "unsafe_weights": "--unsafe-weights",
}

OPTIONS: dict[str, dict[str, str]] = {
    "audit": {**_AUDIT, "executor": "--on"},
    "certify": _CERTIFY,
    "plan": _AUDIT,
    "work": {"device": "--device", "index": "--index", "run_code": "--run-code", "units": "--units"},
    "verify": {
        "architecture": "--arch",
        "data": "--dataset",
        "dataset": "--dataset",
        "device": "--device",
        "model_dir": "--model-dir",
        "models": "--model",
        "recompute": "--recompute",
        "root": "--data-dir",
        "run_code": "--run-code",
        "seed": "--seed",
    },
    "report": {"license": "--license", "model": "--model"},
    "compare": {"attack": "--attack", "eps": "--radius", "model": "--model", "models": "--models"},
    "train": {
        **_DATA,
        **_NETWORKS,
        **{name: f"--option {name}" for name in NAMES},
        "awp_gamma": "--awp",
        "batch_size": "--batch-size",
        "beta": "--beta",
        "checkpoint_dir": "--out",
        "class_policy": "--class-policy",
        "compile": "--compile",
        "ema_decay": "--ema",
        "epochs": "--epochs",
        "excluded": "--exclude",
        "gamma": "--gamma",
        "gradient_clip": "--gradient-clip",
        "imbalance": "--imbalance",
        "keep": "--keep",
        "lr": "--lr",
        "max_iter": "--steps",
        "n_examples": "--examples",
        "nb_epochs": "--epochs",
        "num_workers": "--workers",
        "pseudo_labels": "--pseudo-labels",
        "on_collapse": "--on-collapse",
        "recipe": "--recipe",
        "resume": "--resume",
        "steps": "--steps",
        "summary_writer": "--tensorboard",
        "tau": "--normalize-head",
        "teacher": "--teacher",
        "unlabeled_fraction": "--unlabeled-fraction",
        "validation_data": "--validation",
        "x_unlabeled": "--unlabeled",
        "y_pseudo": "--pseudo-labels",
    },
    "quickstart": {"folder": "--out", "seed": "--seed", "store": "--out"},
    "zoo": {"dataset": "--dataset", "model_dir": "--model-dir", "threat": "--threat"},
}
"""What the parameters are called that a command's messages may name, by command."""

_NAMED = re.compile(r"`(-{0,2}[A-Za-z_][\w-]*)(?:=([^`]*))?`")  # as InputError says it


def with_options(text: str, command: str) -> str:
    """Return a message with a command's options in place of parameters; of those that it doesn't have, plain words.

    A parameter of a class policy that the message speaks of is written as the option has it, as ``dafa:warmup``.

    Args:
        text: The message, with parameters in backquotes.
        command: Name of the command.
    """
    options = OPTIONS.get(command, {})

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        flag = name if name.startswith("--") else options.get(name)
        if flag is None and "class_policy" in options:
            flag = _of_policy(name, text)
        if flag is None:
            return found.group()[1:-1]
        if flag.startswith(("--option ", "--class-policy ")) and value is not None:
            return f"{flag}={_as_words(value).lower()}"
        return flag if value in (None, "True") else f"{flag} {_as_words(value)}"

    return _NAMED.sub(option, text)


def _of_policy(parameter: str, text: str) -> str | None:
    """Return how a parameter of the class policy that a text speaks of is written; None if it is no policy's."""
    from art_classwise.trainers.policies import POLICIES

    for name, policy in POLICIES.items():
        if re.search(rf"\b{name}\b", text, re.IGNORECASE) and parameter in getattr(policy, "__dataclass_fields__", ()):
            return f"--class-policy {name}:{parameter}"
    return None


def _as_words(value: str) -> str:
    """Return a value as it is written in a shell; what is no literal of Python stands for one."""
    try:
        return shlex.quote(str(ast.literal_eval(value)))
    except (ValueError, SyntaxError):
        return value


def message_of(error: InputError, command: str) -> str:
    """Return what an error says on the command line."""
    return printable(with_options(error.short, command), keep="\n")


def say(text: str) -> None:
    """Write a message on stderr; on a terminal, lines end between words. A command in its last line stays whole."""
    if sys.stderr is None:
        return
    if sys.stderr.isatty():
        width = max(20, shutil.get_terminal_size().columns - 1)  # the last column stays free: terminals differ in it
        *lines, last = text.split("\n")
        if not last.startswith("art-classwise ") or not lines:
            lines.append(last)
            last = ""
        filled = [
            textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) if line else "" for line in lines
        ]
        text = "\n".join([*filled, *([last] if last else [])])
    print(text, file=sys.stderr, flush=True)


@contextmanager
def announced(text: str, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Say what is being done, if it takes longer than three seconds: until then it may be over, or an error.

    Args:
        text: The sentence.
        shown: Whether it is wanted. Of torchrun's processes the first says it.

    Yields:
        What to call as soon as it is done; at the end of the context it is.
    """
    timer = threading.Timer(_SOON, say, [text])
    timer.daemon = True
    if shown and os.environ.get("RANK", "0") == "0":
        timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()
