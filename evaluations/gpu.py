r"""What fits into twelve minutes of a machine with a CUDA GPU, in the order of worth; further calls go on from there.

    python evaluations/gpu.py --minutes 12 --root data --out runs/gpu
    python evaluations/gpu.py --device cpu --size tiny --minutes 2

Parts, in this order; ``--parts`` selects some:

- speed-attacks, speed-training, speed-audit: the cases of evaluations/speed in a short form, beside ART, pyautoattack
  and MART's published step;
- train: MART's ResNet-18 on CIFAR-10 by its recipe, 120 epochs, validated by class on 1,000 training images that are
  held out; then the other --methods by the same budget. Matrix products are in bfloat16 unless --precision fp32, which
  is the paper's;
- autoattack: AutoAttack and three PGDs by class on the test images, 500 at a time, on the best epoch of each training
  so far, and on --model.

The call ends within --minutes, counted from its start. A step that would take longer isn't begun, and the summary says
so; a training ends after an epoch. Everything is written to --out as soon as it is there: a call that is interrupted
loses the step it was at, and the next call with the same --out goes on, on the same machine or on another. What was
measured on this kind of GPU isn't measured again.

--root holds cifar10_train.npz and cifar10_test.npz, each with ``x`` (uint8, NHWC) and ``y``. Without --root, at tiny
size only, images are made up, and tables say so.

Nothing is downloaded. For a machine without internet, fetch wheels on one that has it, for the former's Python, and
carry the folder over; torch with CUDA is left as it is there::

    pip download --python-version 3.12 --only-binary=:all: --no-deps --dest wheels adversarial-robustness-toolbox \
        pyautoattack  # and what `pip install --dry-run --no-index --find-links wheels ...` there finds missing
    pip install --no-index --find-links wheels --no-deps wheels/*.whl

The package itself needs no installing if its folder is on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "speed"))
from lib.gpu_arguments import check_images, parsed

SUMMARY = (__doc__ or "").split("\n\n")[0]
if __name__ == "__main__":
    parsed(None, SUMMARY)  # what is wrong with the command line is said before seconds of imports

try:
    import art  # noqa: F401
    import pyautoattack  # noqa: F401
    import torch
except ImportError as error:
    sys.exit(f"error: {error}. The top of {__file__} says how to bring packages along to a machine without internet.")

from lib.budget import Budget, began_at, ended_by
from lib.gpu_call import SIZES, Call
from lib.gpu_summary import Folder, Settings

import art_classwise as acw
from art_classwise.errors import first_line


def main(argv: Sequence[str] | None = None, *, began: float | None = None) -> None:
    """Do what there is time for, and write it down.

    Args:
        argv: The command line.
        began: When the time began, as ``time.monotonic`` tells it; now, if absent.
    """
    arguments = _arguments(argv)
    asked = {"size": arguments.size, "precision": arguments.precision, "compile": arguments.compile}
    asked |= {"epochs": arguments.epochs or SIZES[arguments.size].epochs, "seed": arguments.seed}
    settings = Settings(arguments.device, arguments.root is None, asked)
    try:
        folder = Folder(arguments.out, settings)
    except acw.InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: --out {arguments.out} can't be used: {first_line(error)}")
    seconds = 60 * arguments.minutes
    budget = Budget(seconds, min(15.0, 0.05 * seconds), folder.times, began=began)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ended_by(budget.left + budget.reserve / 2, partial(_end_at_once, folder, budget)):
            Call(arguments, budget, folder).run()
    except KeyboardInterrupt:
        budget.give_up("the call was interrupted")
        sys.exit(130)
    except acw.InputError as error:
        sys.exit(f"error: {error}")
    finally:
        signal.signal(signal.SIGTERM, before)
        folder.write_summary(budget)
        print(folder.summary.read_text(), flush=True)
        print(folder.summary, flush=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _end_at_once(folder: Folder, budget: Budget) -> None:
    """End the process, since a step takes longer than all the time there is; what is finished is on disk."""
    budget.give_up("it took longer than it was reckoned with, and was ended at the limit", too_long=True)
    folder.write_summary(budget)
    print(folder.summary.read_text(), flush=True)
    os._exit(1)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = parsed(argv, SUMMARY)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        build = "is built for it" if torch.version.cuda else "is a build without CUDA"
        sys.exit(
            f"error: torch finds no CUDA GPU here; torch {torch.__version__} {build}. `--device cpu --size tiny` tries "
            "every part on the CPU in under a minute, on made-up images if there is no --root; `--device cpu` alone "
            "does the full work there, of which little fits into minutes."
        )
    try:
        torch.zeros(1, device=arguments.device)
    except Exception as error:  # of a device's own backend: of any kind
        sys.exit(f"error: torch can't compute on --device {arguments.device}: {first_line(error)}")
    check_images(arguments)
    return arguments


if __name__ == "__main__":
    main(began=began_at())
