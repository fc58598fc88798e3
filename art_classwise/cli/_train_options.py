"""The options of the command that trains."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from art_classwise.cli._options import Precision
from art_classwise.trainers.catalog import METHODS

__all__ = [
    "Architecture",
    "Awp",
    "BatchSize",
    "Beta",
    "CheckpointFile",
    "Compile",
    "Ema",
    "Epochs",
    "Examples",
    "Exclude",
    "Gamma",
    "GradientClip",
    "HeadPower",
    "Init",
    "Keep",
    "KeepEpoch",
    "Labels",
    "LearningRate",
    "Method",
    "MethodName",
    "PolicyText",
    "RecipeName",
    "Recipes",
    "Resume",
    "Steps",
    "TensorBoard",
    "Threat",
    "TrainingPrecision",
    "UnlabeledFraction",
    "UnlabeledImages",
    "Validation",
    "Workers",
]


if TYPE_CHECKING:
    Method: TypeAlias = Enum
else:
    Method = Enum("Method", {name: name for name in METHODS}, type=str)


class Recipes(str, Enum):
    """Recipes by name."""

    paper = "paper"
    fast = "fast"


class Keep(str, Enum):
    """Which epoch's weights to save."""

    last = "last"
    robust = "robust"
    robust_worst = "robust+worst"


_RECIPE, _WEIGHTS, _RUN = "Recipe (these options override the recipe)", "Choice of weights", "Run"
_CLASSES, _UNLABELED = "Classes", "Unlabelled images"


def _in(panel: str) -> dict[str, Any]:
    return {"rich_help_panel": panel, "show_default": False}


def _of_recipe(flag: str, says: str) -> Any:
    """An option whose default is the recipe's."""
    return typer.Option(flag, help=says, **_in(_RECIPE))


def _listed(words: list[str], last: str = "and") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


_METHODS = _listed([spec.title for spec in METHODS.values()], "or")
_WITH_BETA = [spec for spec in METHODS.values() if spec.beta is not None]

MethodName = Annotated[
    Method,
    typer.Argument(help=f"{_METHODS[0].upper()}{_METHODS[1:]}.", show_default=False),
]
CheckpointFile = Annotated[Path, typer.Option("--out", help="The checkpoint file to write, e.g. mart.pt.")]
Architecture = Annotated[
    str, typer.Option("--arch", help="digits-cnn, mnist-cnn, resnet18, preactresnet18, wrn-34-10, ...")
]
RecipeName = Annotated[
    Recipes | None,
    typer.Option(
        "--recipe",
        help="paper: the one published for method, architecture and data set. fast: one learning-rate cycle of 30 "
        "epochs, in bfloat16 and compiled where that pays. Default: a cosine from 0.05, 30 epochs.",
        show_default=False,
        rich_help_panel=_RECIPE,
    ),
]
Init = Annotated[
    Path | None,
    _of_recipe(
        "--init", "Start from the weights of this checkpoint, to fine-tune; the policies frl and faal expect it."
    ),
]
Examples = Annotated[
    int | None,
    typer.Option("--examples", help="Train on so many examples of the set. Default: all.", show_default=False),
]
Epochs = Annotated[int | None, _of_recipe("--epochs", "Epochs.")]
BatchSize = Annotated[int | None, _of_recipe("--batch-size", "Examples per step, over all processes.")]
LearningRate = Annotated[float | None, _of_recipe("--lr", "Highest learning rate.")]
Threat = Annotated[
    str | None,
    _of_recipe(
        "--threat",
        "Norm and radius for images in [0, 1], e.g. Linf:8/255 or L2:0.5. Default: the recipe's, or usual for the data "
        "set; for your own Linf:8/255.",
    ),
]
Steps = Annotated[int | None, _of_recipe("--steps", "Steps of the training attack.")]
Beta = Annotated[
    float | None,
    _of_recipe(
        "--beta",
        f"Weight of the second term of {_listed([spec.title for spec in _WITH_BETA])}; usually "
        f"{_listed([f'{spec.beta:g}' for spec in _WITH_BETA])}.",
    ),
]
Awp = Annotated[
    float,
    typer.Option("--awp", help="Also perturb the weights, by this share of their norm; usually 0.005.", **_in(_RECIPE)),
]
GradientClip = Annotated[
    float | None,
    typer.Option("--gradient-clip", help="Largest norm of the gradient, e.g. 1.", **_in(_RECIPE)),
]
Ema = Annotated[
    float | None,
    typer.Option("--ema", help="Average the weights with this decay, e.g. 0.995.", **_in(_RECIPE)),
]
TrainingPrecision = Annotated[
    Precision | None,
    typer.Option("--precision", help="auto: bfloat16 where the hardware supports it.", **_in(_RECIPE)),
]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the network; slow at the start.", **_in(_RECIPE)),
]
PolicyText = Annotated[
    str | None,
    typer.Option(
        "--class-policy",
        help="Set class weights and budgets during training: cfa, cfol, dafa, faal, frl or wat, with parameters as in "
        "dafa:lamb=1.5,warmup=20; or fixed ones, as in weights:cat=2 or budgets:cat=4/255.",
        **_in(_CLASSES),
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        help="Train without this class, its examples and its output unit; repeat the option for more classes.",
        **_in(_CLASSES),
    ),
]
HeadPower = Annotated[
    float | None,
    typer.Option(
        "--normalize-head",
        help="After training, divide each class's weight vector by its norm to this power, from 0 to 1.",
        **_in(_CLASSES),
    ),
]
UnlabeledImages = Annotated[
    str | None,
    typer.Option(
        "--unlabeled",
        help="Images to train on with pseudo-labels: an .npz file (array x, optionally y_pseudo), a folder, or a data "
        "set, whose labels are ignored.",
        **_in(_UNLABELED),
    ),
]
Labels = Annotated[
    int | None,
    typer.Option(
        "--labels",
        help="Use the labels of only this many training examples, in proportion to the classes. The others serve as "
        "unlabelled images, unless --unlabeled is given.",
        **_in(_UNLABELED),
    ),
]
UnlabeledFraction = Annotated[
    float | None,
    typer.Option("--unlabeled-fraction", help="Unlabelled share of each batch; usually 0.5.", **_in(_UNLABELED)),
]
Gamma = Annotated[
    float | None, typer.Option("--gamma", help="Weight of unlabelled examples; usually 1.", **_in(_UNLABELED))
]
Validation = Annotated[
    int,
    typer.Option(
        "--validation",
        help="Hold out this many training examples, in proportion to the classes, and validate on them after each "
        "epoch.",
        rich_help_panel=_WEIGHTS,
    ),
]
KeepEpoch = Annotated[
    Keep | None,
    typer.Option(
        "--keep",
        help="Which epoch's weights to save: the last, the most robust, or the best sum of average and worst class. "
        "Default: robust with --validation, else last.",
        show_default=False,
        rich_help_panel=_WEIGHTS,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue an interrupted training with this --out. Its state is stored beside it, in mart.training for "
        "mart.pt.",
        rich_help_panel=_RUN,
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", help="Number of processes that read images from disk.", rich_help_panel=_RUN)
]
TensorBoard = Annotated[Path | None, typer.Option("--tensorboard", help="Folder for TensorBoard logs.", **_in(_RUN))]
