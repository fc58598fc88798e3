"""The command line of gpu.py, as far as it can be judged without torch, whose import takes seconds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

PARTS = ("speed-attacks", "speed-training", "speed-audit", "train", "autoattack")
METHODS = ("mart", "standard", "trades")
SIZES = ("tiny", "full")


def parsed(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Return what was asked for; what is wrong with it ends the process with a sentence.

    Args:
        argv: The command line; the process's own, if absent.
        description: Of the script.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--minutes", type=_positive, default=12.0, help="within which the call ends")
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny: to try every part")
    parser.add_argument("--device", default="cuda", help="cuda, cpu, or another one of torch's")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="done in this order")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="trained one by one")
    parser.add_argument("--epochs", type=int, help="of a training; default: the size's, decays in proportion")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of trainings")
    parser.add_argument("--compile", action="store_true", help="compile networks in training (a minute or more)")
    parser.add_argument("--model", help="a checkpoint to audit, too")
    parser.add_argument("--seed", type=int, default=0, help="of weights and trainings")
    parser.add_argument("--root", help="folder with cifar10_train.npz and cifar10_test.npz")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of everything; calls add to it")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.seed < 2**63:
        sys.exit(f"error: --seed must be a whole number of at least 0 and below 2**63, but is {arguments.seed}")
    if arguments.epochs is not None and arguments.epochs < 1:
        sys.exit(f"error: --epochs must be 1 or more, but is {arguments.epochs}")
    if arguments.model is not None and not Path(arguments.model).is_file():
        sys.exit(f"error: there is no file {arguments.model!r}, which --model names")
    if arguments.root is not None:
        check_images(arguments)
    return arguments


def check_images(arguments: argparse.Namespace) -> None:
    """End the process with a sentence if there are no images, and none may be made up."""
    files = [Path(arguments.root or ".") / f"cifar10_{split}.npz" for split in ("train", "test")]
    absent = [str(path) for path in files if not path.is_file()]
    if absent and (arguments.root is not None or arguments.size != "tiny"):
        sys.exit(
            f"error: there is no {' and no '.join(absent)}: give the folder of both as --root, each with arrays x "
            "(uint8, NHWC) and y. At --size tiny, without --root, images are made up."
        )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, but is {text!r}")
    return value
