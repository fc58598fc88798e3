"""The options of the command that trains."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from art_classwise.cli import _completion as completion
from art_classwise.cli._options import ATTACKS, DATA, MODELS, OUTPUT, RUNNING, Precision
from art_classwise.errors import unknown
from art_classwise.trainers.catalog import METHODS, method_spec

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
    "Imbalance",
    "Init",
    "Keep",
    "KeepEpoch",
    "Labels",
    "LearningRate",
    "MethodName",
    "MethodOption",
    "OnCollapse",
    "PolicyText",
    "PseudoLabels",
    "RecipeName",
    "Resume",
    "Steps",
    "Teacher",
    "TensorBoard",
    "Threat",
    "TrainingPrecision",
    "UnlabeledFraction",
    "UnlabeledImages",
    "Validation",
    "Workers",
]


class Keep(str, Enum):
    """Which epoch's weights to save."""

    last = "last"
    robust = "robust"
    robust_worst = "robust+worst"


class Answer(str, Enum):
    """What to do when a class collapses in fast training."""

    stop = "stop"
    restore = "restore"


_RECIPE, _WEIGHTS = "Recipe (these options override the recipe)", "Choice of weights"
_CLASSES, _UNLABELED = "Classes", "Unlabelled images"


def _option(flag: str, metavar: str | None, panel: str, says: str, **more: Any) -> Any:
    return typer.Option(flag, help=says, metavar=metavar, rich_help_panel=panel, show_default=False, **more)


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


_WITH_VARIANTS = [spec for spec in METHODS.values() if spec.variants]
_WITH_BETA = [spec for spec in METHODS.values() if spec.beta is not None]

MethodName = Annotated[
    str,
    typer.Argument(
        metavar="METHOD",
        callback=lambda name: method_spec(name.lower()).name,
        help=f"{', '.join(METHODS)}: {_listed([spec.title for spec in METHODS.values()])}."
        + "".join(f" Kinds of {spec.title}: {', '.join(dict(spec.variants))}." for spec in _WITH_VARIANTS),
        autocompletion=completion.methods,
        show_default=False,
    ),
]
CheckpointFile = Annotated[
    Path,
    typer.Option("--out", help="The checkpoint file to write, e.g. mart.pt.", metavar="FILE", rich_help_panel=OUTPUT),
]
TensorBoard = Annotated[Path | None, _option("--tensorboard", "DIR", OUTPUT, "Folder for TensorBoard logs.")]
Architecture = Annotated[
    str,
    typer.Option(
        "--arch",
        help="digits-cnn, mnist-cnn, resnet8, resnet20, resnet18, preactresnet18, wrn-34-10, ...",
        metavar="ARCH",
        autocompletion=completion.architectures,
        rich_help_panel=MODELS,
    ),
]
Init = Annotated[
    Path | None,
    _option(
        "--init",
        "FILE",
        MODELS,
        "Start from the weights of this checkpoint, to fine-tune; the policies frl and faal expect it, and their "
        "recipes need it.",
    ),
]
Teacher = Annotated[
    Path | None,
    _option("--teacher", "FILE", MODELS, "Checkpoint of the network to distil; for distillation."),
]
HeadPower = Annotated[
    float | None,
    _option(
        "--normalize-head",
        "POWER",
        MODELS,
        "After training, divide each class's weight vector by its norm to this power, from 0 to 1.",
    ),
]
Examples = Annotated[
    int | None, _option("--examples", "N", DATA, "Train on this many examples of the set. Default: all.")
]


def _recipe_name(name: str | None) -> str | None:
    """Return the name of a recipe: fast, paper, or paper:VARIANT."""
    if name is None:
        return None
    kind, colon, variant = name.strip().lower().partition(":")
    if kind not in ("paper", "fast") or (colon and (kind == "fast" or not variant)):
        raise unknown("recipe", name, completion.RECIPES)
    return kind + colon + variant


Imbalance = Annotated[
    float | None,
    _option(
        "--imbalance",
        "SHARE",
        DATA,
        "Thin the classes out to a long tail: their numbers fall exponentially, down to this share of the first one's.",
    ),
]
RecipeName = Annotated[
    str | None,
    _option(
        "--recipe",
        "NAME",
        _RECIPE,
        "paper: the one published for method, architecture and data set; with what is added to the method, paper:awp, "
        "paper:cfa, paper:dafa, ... fast: one learning-rate cycle of 30 epochs, in bfloat16 and compiled where that "
        "pays. Default: a cosine from 0.05, 30 epochs.",
        callback=_recipe_name,
        autocompletion=completion.recipes,
    ),
]
MethodOption = Annotated[
    list[str] | None,
    _option(
        "--option",
        "NAME=VALUE",
        _RECIPE,
        "Another option of the trainer: weighted=misclassified or misclassified_attack=fgsm of MART; temperature=20 of "
        "ARD, alpha=0.5 of all distillation; noise=1, collapse_gap=0.1 of fast training; of several exact=true, "
        "friendly_tau=0, class_balanced=true, label_smoothing=0.1; repeat it for more.",
    ),
]
Epochs = Annotated[int | None, _option("--epochs", "N", _RECIPE, "Epochs.")]
BatchSize = Annotated[int | None, _option("--batch-size", "N", _RECIPE, "Examples per step, over all processes.")]
LearningRate = Annotated[float | None, _option("--lr", "RATE", _RECIPE, "Highest learning rate.")]
Threat = Annotated[
    str | None,
    _option(
        "--threat",
        "NORM:EPS",
        ATTACKS,
        "Norm and radius for images in [0, 1], e.g. Linf:8/255 or L2:0.5. Default: the recipe's, or usual for the data "
        "set; for your own Linf:8/255.",
        autocompletion=completion.threats,
    ),
]
Steps = Annotated[int | None, _option("--steps", "N", ATTACKS, "Steps of the training attack.")]
Beta = Annotated[
    float | None,
    _option(
        "--beta",
        "WEIGHT",
        _RECIPE,
        f"Weight of the second term of {_listed([spec.title for spec in _WITH_BETA])}; usually "
        f"{_listed([f'{spec.beta:g}' for spec in _WITH_BETA])}.",
    ),
]
Awp = Annotated[
    float | None,
    _option("--awp", "SHARE", _RECIPE, "Also perturb the weights, by this share of their norm; usually 0.005."),
]
GradientClip = Annotated[
    float | None, _option("--gradient-clip", "NORM", _RECIPE, "Largest norm of the gradient, e.g. 1.")
]
Ema = Annotated[float | None, _option("--ema", "DECAY", _RECIPE, "Average the weights with this decay, e.g. 0.995.")]
TrainingPrecision = Annotated[
    Precision | None,
    _option("--precision", "NAME", _RECIPE, "fp32, bf16 or auto: bfloat16 where the hardware supports it."),
]
Compile = Annotated[
    bool | None,
    _option("--compile/--no-compile", None, _RECIPE, "Compile the network; slow at the start."),
]
PolicyText = Annotated[
    str | None,
    _option(
        "--class-policy",
        "POLICY",
        _CLASSES,
        "Set class weights and budgets during training: absld, balanced-softmax, cfa, cfol, dafa, faal, fair-ard, "
        "fair-tat, frl, spectral, trix or wat, with parameters as in dafa:lamb=1.5,warmup=20; or fixed ones, as in "
        "weights:cat=2 or budgets:cat=4/255; several are joined as in 'trix + weights:cat=2'.",
        autocompletion=completion.policies,
    ),
]
Exclude = Annotated[
    list[str] | None,
    _option(
        "--exclude",
        "NAME",
        _CLASSES,
        "Train without this class, its examples and its output unit; repeat the option for more classes.",
    ),
]
UnlabeledImages = Annotated[
    str | None,
    _option(
        "--unlabeled",
        "NAME",
        _UNLABELED,
        "Images to train on with pseudo-labels: rest, the training examples that --labels leaves; an .npz file (array "
        "x, optionally y_pseudo); a folder; or a data set, whose labels are ignored.",
        autocompletion=completion.datasets,
    ),
]
PseudoLabels = Annotated[
    str | None,
    _option(
        "--pseudo-labels",
        "ARRAY",
        _UNLABELED,
        "Name of the array with pseudo-labels in --unlabeled's .npz file: label, say. Default: y_pseudo, if there.",
    ),
]
Labels = Annotated[
    int | None,
    _option(
        "--labels",
        "N",
        _UNLABELED,
        "Train on only this many labelled examples, in proportion to the classes. The others aren't used, unless "
        "--unlabeled rest, --unlabeled-fraction, --gamma or the recipe asks for unlabelled images.",
    ),
]
UnlabeledFraction = Annotated[
    float | None,
    _option("--unlabeled-fraction", "SHARE", _UNLABELED, "Unlabelled share of each batch; usually 0.5."),
]
Gamma = Annotated[float | None, _option("--gamma", "WEIGHT", _UNLABELED, "Weight of unlabelled examples; usually 1.")]
Validation = Annotated[
    int | None,
    _option(
        "--validation",
        "N",
        _WEIGHTS,
        "Hold out this many training examples, in proportion to the classes, and validate on them after each epoch. "
        "Default: the recipe's, which for most is none.",
    ),
]
KeepEpoch = Annotated[
    Keep | None,
    _option(
        "--keep",
        "EPOCH",
        _WEIGHTS,
        "Which epoch's weights to save: last, robust (the most robust), or robust+worst (the best sum of average and "
        "worst class). Default: the recipe's; robust with --validation, else last.",
    ),
]
OnCollapse = Annotated[
    Answer | None,
    _option(
        "--on-collapse",
        "ANSWER",
        _WEIGHTS,
        "In fast training, once a class withstands one step but no longer several: stop there, or restore "
        "the weights from before. Needs --validation. Default: tell it and go on.",
    ),
]
Resume = Annotated[
    bool,
    _option(
        "--resume",
        None,
        RUNNING,
        "Continue an interrupted training with this --out. Its state is stored beside it, in mart.training for "
        "mart.pt.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", help="Number of processes that read images from disk.", metavar="N", rich_help_panel=RUNNING
    ),
]
