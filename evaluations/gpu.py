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

import time

BEGAN = time.monotonic()

import argparse  # noqa: E402 - the imports are part of the time
import gc  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import asdict, dataclass, replace  # noqa: E402
from functools import cached_property, partial  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

if missing := [name for name in ("torch", "art", "pyautoattack", "pandas", "pydantic") if find_spec(name) is None]:
    sys.exit(f"error: not installed here: {', '.join(missing)}. The top of {__file__} says how to bring wheels along.")

import torch  # noqa: E402

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "speed")]
import attack_speed  # noqa: E402
import audit_speed  # noqa: E402
from lib import paced  # noqa: E402
from lib.budget import Budget, ended_by  # noqa: E402
from lib.data import load, stand_in  # noqa: E402
from lib.gpu_summary import Folder, Settings  # noqa: E402
from lib.machine import moved, placed_by_art  # noqa: E402
from lib.mart import paper_beside  # noqa: E402
from lib.setups import network  # noqa: E402

import art_classwise as acw  # noqa: E402
from art_classwise.audit.provenance import weights_fingerprint  # noqa: E402
from art_classwise.errors import first_line  # noqa: E402
from art_classwise.trainers.recipes import Recipe  # noqa: E402

PARTS = ("speed-attacks", "speed-training", "speed-audit", "train", "autoattack")
METHODS = ("mart", "standard", "trades")
THREAT = "Linf:8/255"
SPEED_SHARE = 0.35
"""Of the time, that the speed tables may take at most, if there are other parts."""


@dataclass(frozen=True)
class Size:
    """How much there is to do.

    Attributes:
        speed: A key of attack_speed's sizes.
        network: A key of setups.NETWORKS.
        epochs: Of a training.
        steps: Of the training attack.
        batch_size: Of a training.
        n_train: Training examples; all if None.
        n_validation: Of them, those to validate on.
        n_test: Test examples; all if None.
        portion: Test examples that are audited at once.
        n_iter: AutoAttack's iterations and queries; its own if None.
        audited: Of the audit that is timed: network, radius, number of images, attacks, ways.
        guess: Seconds for a case of the speed tables, and for a portion, of which nothing is known.
    """

    speed: str
    network: str
    epochs: int
    steps: int
    batch_size: int
    n_train: int | None
    n_validation: int
    n_test: int | None
    portion: int
    n_iter: int | None
    audited: tuple[str, str, int, tuple[str, ...], tuple[str, ...]]
    guess: tuple[float, float]


_AUDITED = ("cifar10-resnet18-natural", "0.9/255", 512, ("pgd-20", "autoattack"))
SIZES = {
    "tiny": Size(
        *("smallest", "cnn-a", 2, 1, 40, 240, 40, 40, 20, 2),
        ("cnn-a", "1/255", 4, ("fgsm",), (audit_speed.THEIRS, audit_speed.WORST_CASE)),
        (5.0, 5.0),
    ),
    "full": Size(
        *("short", "resnet18", 120, 10, 128, None, 1_000, None, 500, None),
        (*_AUDITED, (audit_speed.AUTOATTACK, audit_speed.WORST_CASE)),
        (30.0, 60.0),
    ),
}


class Call:
    """A call of the script: what it was asked for, what there is already, and what time is left."""

    def __init__(self, arguments: argparse.Namespace, budget: Budget, folder: Folder) -> None:
        self.arguments, self.budget, self.folder = arguments, budget, folder
        self.size, self.device = SIZES[arguments.size], arguments.device

    def run(self) -> None:
        """Do the parts in their order."""
        does: dict[str, Callable[[], None]] = {
            "speed-attacks": lambda: self.cases("attacks"),
            "speed-training": lambda: self.cases("training"),
            "speed-audit": self.audits,
            "train": self.train,
            "autoattack": self.autoattack,
        }
        for part in PARTS:
            if part in self.arguments.parts:
                print(f"{part}: {max(0.0, self.budget.left):.0f} s are left", flush=True)
                does[part]()
                self.folder.write_summary(self.budget)
                release(self.device)

    @property
    def kept_for_others(self) -> float:
        """Seconds that the speed tables leave to what follows."""
        follows = {"train", "autoattack"} & set(self.arguments.parts)
        return (1 - SPEED_SHARE) * self.budget.seconds if follows else 0.0

    def cases(self, table: str) -> None:
        """Time attacks, or training steps."""
        size = self.size.speed
        given = argparse.Namespace(size=size, compiled=self.arguments.compile, torchattacks=None, checkpoints=None)
        given.cifar10 = self.test_file
        for case in attack_speed.cases(given, table):
            time_case = partial(attack_speed.time_case, case, size, given.cifar10, None, None, self.device)
            self._timed(table, case, time_case)

    def audits(self) -> None:
        """Time an audit, and the same attacks one by one."""
        name, radius, n, attacks, ways = self.size.audited
        subject = audit_speed.Subject(name, radius, self.test_file, n, device=self.device)
        for way in ways:
            self._timed("audit", (way,), partial(audit_speed.time_way, way, asdict(subject), attacks), subject=subject)

    def _timed(self, table: str, case: Sequence[str], measure: Callable[[], dict[str, Any]], **of: Any) -> None:
        """Time a case, if it isn't there already and there is time."""
        told = ", ".join(case if case[0].startswith(table) else (table, *case))
        step = f"speed of {told}"
        if self.folder.has_case(table, case):
            return
        if not self.budget.begin(step, told, self.size.guess[0], beside=self.kept_for_others):
            return
        try:
            with self.budget.measured(step):
                done = measure()
        except Exception as error:  # of others' code, too, and of any kind: the other cases can be measured
            self.budget.skip(told, f"{type(error).__name__}: {first_line(error)}")
        else:
            self.folder.add_case(table, case, done, **of)
            print(f"{told}: {self.budget.times[step]:.1f} s", flush=True)
        release(self.device)

    def train(self) -> None:
        """Train each method to its last epoch, as far as there is time."""
        what, verbose = self.subject, sys.stderr.isatty()
        for method in self.arguments.methods:
            recipe, folder = self.recipe(method), self.folder.training(method)
            if paced.epochs_of(folder) >= recipe.epochs:
                continue
            told, step = f"training by {method}", f"epoch of {method}"
            kept = self._portion_time if "autoattack" in self.arguments.parts else 0.0
            if not self.budget.begin(step, told, self.size.guess[0], beside=kept):
                return
            why = paced.train(
                recipe, what, folder, self.budget, step=step, kept=kept, seed=self.arguments.seed, verbose=verbose
            )
            self.folder.write_validation(method, what.train.classes)
            release(self.device)
            if why:
                done = paced.epochs_of(folder)
                self.budget.skip(told, f"after {done} of {recipe.epochs} epochs {why}; the next call goes on")
                return

    def autoattack(self) -> None:
        """Audit the networks that there are by class, as far as there is time."""
        for name, make in self.networks():
            classifier = make()
            folder = self.folder.outcomes(f"{name}-{weights_fingerprint(classifier.model)[:8]}")
            paced.audit(
                classifier,
                self.test,
                THREAT,
                self.attacks(),
                folder,
                self.budget,
                step=f"portion of {self.size.portion}",
                portion=self.size.portion,
                guess=self.size.guess[1],
            )
            self.folder.write_classes(self.test.classes)

    def networks(self) -> list[tuple[str, Callable[[], Any]]]:
        """Return what is to be audited: the given checkpoint first, and the best epoch of each training so far."""
        found: list[tuple[str, Callable[[], Any]]] = []
        if path := self.arguments.model:
            place = placed_by_art(self.device)
            found.append((slug(Path(path).stem), lambda: moved(acw.load_checkpoint(path, device=place), self.device)))
        for method in self.arguments.methods:
            folder = self.folder.training(method)
            if paced.epochs_of(folder):
                classifier, epoch = paced.trained(self.subject, folder)
                found.append((f"{method}-epoch-{epoch}", lambda classifier=classifier: classifier))
        if not found:
            self.budget.skip("autoattack", "no epoch of a training is done, and no --model is given")
        return found

    def attacks(self) -> dict[str, Any]:
        """Return the attacks by name, from weak to strong."""
        made = acw.attacks.ladder(["pgd-20", "margin-20", "tpgd5-20", "autoattack"], acw.ThreatModel.parse(THREAT))
        if n := self.size.n_iter:
            eps = acw.ThreatModel.parse(THREAT).eps
            made["autoattack"] = partial(acw.AutoAttack, eps=eps, n_iter=n, n_queries=n, verbose=False)
        return made

    def recipe(self, method: str) -> Recipe:
        """Return how a method trains: as MART's authors do, decays in proportion to the number of epochs."""
        recipe, size = paper_beside(method), self.size
        epochs = self.arguments.epochs or size.epochs
        decay = tuple((max(1, round(first * epochs / recipe.epochs)), factor) for first, factor in recipe.decay)
        given = {"epochs": epochs, "steps": size.steps, "batch_size": size.batch_size}
        recipe = recipe.override(**given, precision=self.arguments.precision, compile=self.arguments.compile)
        return replace(recipe, decay=decay)

    @cached_property
    def subject(self) -> paced.Subject:
        """What is trained."""
        train, validation = self._data("train", self.size.n_train).hold_out(self.size.n_validation)
        make = partial(network, self.size.network, train.input_shape, len(train.classes), self.arguments.seed)
        return paced.Subject(make, train, validation, self.device)

    @cached_property
    def test(self) -> acw.Dataset:
        """The test examples."""
        return self._data("test", self.size.n_test)

    @property
    def test_file(self) -> str | None:
        """Their file; of stand-ins one in the output folder."""
        if self.arguments.root:
            return str(Path(self.arguments.root) / "cifar10_test.npz")
        return self.folder.stand_in_file(self.test)

    def _data(self, split: str, n: int | None) -> acw.Dataset:
        if self.arguments.root:
            return load("cifar10", split, self.arguments.root, n)
        return stand_in("cifar10", split, n or 1_000)

    @property
    def _portion_time(self) -> float:
        return self.budget.expected(f"portion of {self.size.portion}", self.size.guess[1])


def slug(text: str) -> str:
    """Return a name for a file."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "model"


def release(device: str) -> None:
    """Give the memory of what is gone back."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


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
    seconds = 60 * arguments.minutes
    budget = Budget(seconds, min(15.0, 0.05 * seconds), folder.times, began=began)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ended_by(budget.left + budget.reserve / 2, partial(_end_at_once, folder, budget)):
            Call(arguments, budget, folder).run()
    except KeyboardInterrupt:
        budget.skip("what was being done", "the call was interrupted")
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
    budget.skip("what was being done", "it took longer than it was reckoned with, and was ended at the limit")
    folder.write_summary(budget)
    print(folder.summary.read_text(), flush=True)
    os._exit(1)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
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
    if arguments.device == "cuda" and not torch.cuda.is_available():
        build = "is built for it" if torch.version.cuda else "is a build without CUDA"
        parser.error(
            f"torch finds no CUDA GPU here; torch {torch.__version__} {build}. `--device cpu --size tiny` tries every "
            "part on the CPU in under a minute, on made-up images if there is no --root; `--device cpu` alone does the "
            "full work there, of which little fits into minutes."
        )
    if arguments.epochs is not None and arguments.epochs < 1:
        parser.error(f"--epochs must be 1 or more, but is {arguments.epochs}")
    files = [Path(arguments.root or ".") / f"cifar10_{split}.npz" for split in ("train", "test")]
    absent = [str(path) for path in files if not path.is_file()]
    if absent and (arguments.root or arguments.size != "tiny"):
        parser.error(
            f"there is no {' and no '.join(absent)}: give the folder of both as --root, each with arrays x (uint8, "
            "NHWC) and y. At --size tiny, without --root, images are made up."
        )
    return arguments


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, but is {text!r}")
    return value


if __name__ == "__main__":
    main(began=BEGAN)
