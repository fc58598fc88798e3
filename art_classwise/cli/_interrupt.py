"""Ctrl-C and SIGTERM: one sentence says what is kept and which command goes on, in place of a traceback."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["Interruptible", "command_line", "on_interrupt"]

_SAYS = f"{__name__}.says"


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM: a cluster's scheduler wants the machine back, say."""


class Interruptible(TyperGroup):
    """Commands that end with a sentence and the exit code of shells, 128 and the signal's number, when interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            with _terminated_as_interrupted():
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            says = ctx.meta.get(_SAYS)
            if os.environ.get("RANK", "0") == "0":  # of torchrun's processes
                print(f"\n{'Interrupted.' if says is None else says()}", file=sys.stderr, flush=True)
            number = signal.SIGTERM if isinstance(stop, _TerminatedError) else signal.SIGINT
            raise typer.Exit(128 + number) from None


def on_interrupt(context: typer.Context, says: Callable[[], str]) -> None:
    """Choose what is said if the command is interrupted from now on.

    Args:
        context: Of the command.
        says: Returns the sentence.
    """
    context.meta[_SAYS] = says


def command_line(*more: str) -> str:
    """Return the command that runs, as it is typed in a shell.

    Args:
        more: What is typed after it, where it isn't there already.
    """
    words = sys.argv[1:]
    return shlex.join(["art-classwise", *words, *(word for word in more if word not in words)])


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():  # others can't handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
