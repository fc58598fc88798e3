"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import io
import shlex
import sys
import textwrap
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from art_classwise import __version__
from art_classwise.errors import InputError, check_whole

if TYPE_CHECKING:
    import pandas as pd

    from art_classwise.datasets import Dataset
    from art_classwise.trainers.recipes import Recipe

__all__ = ["app", "main"]

app = typer.Typer(
    name="art-classwise",
    help="Robustness class by class: train, attack, audit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class _Precision(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Method(str, Enum):
    """Training methods by name."""

    standard = "standard"
    trades = "trades"
    mart = "mart"


class _RecipeName(str, Enum):
    paper = "paper"
    fast = "fast"


class _Keep(str, Enum):
    last = "last"
    robust = "robust"
    robust_worst = "robust+worst"


Out = Annotated[Path, typer.Option("--out", help="Folder for the results.", show_default=True)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
Root = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of the data sets; $ART_CLASSWISE_DATA, else data.", show_default=False),
]
DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="digits, mnist, cifar10, cifar100, svhn, stl10, imagenet; an .npz file; an image folder.",
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--class-names",
        help="For a file or folder: names with commas between, or the data set whose names they are.",
        show_default=False,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", help="For a folder: resize and crop images to this size.", show_default=False),
]


_RECIPE, _WEIGHTS, _RUN = "Recipe (what is given here replaces the recipe's own)", "Choice of weights", "Run"


def _in(panel: str) -> dict[str, Any]:
    return {"rich_help_panel": panel, "show_default": False}


def _of_recipe(flag: str, says: str) -> Any:
    """An option whose default is the recipe's."""
    return typer.Option(flag, help=says, **_in(_RECIPE))


def main() -> None:
    """Run the command line; what the user got wrong is one line on stderr and exit code 2, a failing disk code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets "?", not an error
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"art-classwise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def quickstart(
    out: Out = Path("runs/quickstart"),
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train two small networks on handwritten digits, attack them, and see them class by class."""
    from art_classwise.quickstart import quickstart as run
    from art_classwise.report import print_tables, report_files

    result = run(out, seed=seed, verbose=not quiet)
    print_tables(result)
    _say_where(report_files(out))


@app.command()
def train(
    method: Annotated[Method, typer.Argument(help="Standard adversarial training, TRADES, MART.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The checkpoint file to write, e.g. mart.pt.")],
    dataset: DatasetName = "digits",
    arch: Annotated[
        str, typer.Option("--arch", help="digits-cnn, mnist-cnn, resnet18, preactresnet18, wrn-34-10, ...")
    ] = "digits-cnn",
    recipe: Annotated[
        _RecipeName | None,
        typer.Option(
            "--recipe",
            help="paper: the one published for method, architecture and data set; fast: one learning-rate cycle of 30 "
            "epochs, in bfloat16 and compiled where that pays. Without: a cosine from 0.05, 30 epochs, Linf:8/255.",
            show_default=False,
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    epochs: Annotated[int | None, _of_recipe("--epochs", "Epochs.")] = None,
    batch_size: Annotated[int | None, _of_recipe("--batch-size", "Examples per step, of all processes.")] = None,
    lr: Annotated[float | None, _of_recipe("--lr", "Highest learning rate.")] = None,
    threat: Annotated[
        str | None, _of_recipe("--threat", "Norm and radius on [0, 1], e.g. Linf:8/255 or L2:0.5.")
    ] = None,
    steps: Annotated[int | None, _of_recipe("--steps", "Steps of the training attack.")] = None,
    beta: Annotated[
        float | None, _of_recipe("--beta", "Weight of the KL term of TRADES and MART; usually 6 and 5.")
    ] = None,
    awp: Annotated[
        float, typer.Option("--awp", help="Perturb weights, too, by this share; 0.005 is usual.", **_in(_RECIPE))
    ] = 0.0,
    gradient_clip: Annotated[
        float | None,
        typer.Option("--gradient-clip", help="Largest norm of the gradient, e.g. 1.", **_in(_RECIPE)),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option("--ema", help="Average the weights with this decay, e.g. 0.995.", **_in(_RECIPE)),
    ] = None,
    precision: Annotated[
        _Precision | None,
        typer.Option("--precision", help="auto: bfloat16 where the hardware multiplies it.", **_in(_RECIPE)),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the network; slow to start.", **_in(_RECIPE)),
    ] = None,
    validation: Annotated[
        int,
        typer.Option(
            "--validation",
            help="Hold out this many training examples, in proportion to the classes, and measure on them after each "
            "epoch.",
            rich_help_panel=_WEIGHTS,
        ),
    ] = 0,
    keep: Annotated[
        _Keep | None,
        typer.Option(
            "--keep",
            help="Which epoch's weights to save: the last, the most robust, or the best in average plus worst class; "
            "robust, if there is --validation.",
            show_default=False,
            rich_help_panel=_WEIGHTS,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where a training with this --out stopped; its state lies beside it, in mart.training for "
            "mart.pt.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", help="Processes that read images from disk.", rich_help_panel=_RUN)
    ] = 0,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", help="Folder for TensorBoard's curves.", **_in(_RUN))
    ] = None,
    class_names: ClassNames = None,
    image_size: ImageSize = None,
    data_dir: Root = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a network adversarially and save it as a checkpoint, with its history as CSV beside it.

    Under torchrun, training is shared by all processes.
    """
    from art_classwise import trainers
    from art_classwise._files import check_output_folder, written_aside
    from art_classwise._ranks import is_main
    from art_classwise.datasets import load_dataset
    from art_classwise.zoo import as_classifier, build, save_checkpoint

    chosen = _chosen_recipe(method, recipe, arch, dataset, threat).override(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        steps=steps,
        beta=beta,
        precision=None if precision is None else precision.value,
        compile=compile_,
    )
    if keep not in (None, _Keep.last) and not validation:
        raise InputError(f"--keep {keep.value} needs examples to choose by: give --validation, e.g. --validation 1000.")
    kept = keep.value if keep is not None else "robust" if validation else "last"
    if out.is_dir():
        raise InputError(f"--out must be a file, such as {out / (method.value + '.pt')}, but {out} is a folder.")
    check_output_folder(out.absolute().parent)
    stem = out.name.removesuffix(".pt")
    state, curve = out.with_name(f"{stem}.training"), out.with_name(f"{stem}.csv")
    if not resume and (state / "training.pt").exists():
        raise InputError(
            f"{state} holds a training already: go on with it, --resume, choose another --out, or remove that folder."
        )
    for path in () if resume else (out, curve):
        if path.exists():
            raise InputError(f"{path} is there already: choose another --out, or remove it.")
    data = load_dataset(dataset, "train", root=data_dir, classes=_split_names(class_names), image_size=image_size)
    data, held_out = _hold_out(data, validation, seed)
    network = build(arch, data.input_shape, len(data.classes), seed=seed)
    optimizer = chosen.optimizer(network)
    classifier = as_classifier(network, data.input_shape, len(data.classes), optimizer=optimizer)
    schedule, interval = chosen.scheduler(optimizer, len(data))
    makers: dict[Method, Any] = {
        Method.standard: trainers.AdversarialTrainerStandardPyTorch,
        Method.trades: trainers.AdversarialTrainerTRADESPyTorch,
        Method.mart: trainers.AdversarialTrainerMARTPyTorch,
    }
    options = chosen.trainer_options(network)
    trainer = makers[method](
        classifier,
        **options,
        gradient_clip=gradient_clip,
        ema_decay=ema,
        awp_gamma=awp,
        num_workers=workers,
        summary_writer=False if tensorboard is None else str(tensorboard),
        seed=seed,
        verbose=not quiet,
    )
    history = trainer.fit(
        data.x,
        data.y,
        validation_data=None if held_out is None else (held_out.x, held_out.y),
        batch_size=chosen.batch_size,
        nb_epochs=chosen.epochs,
        scheduler=schedule,
        scheduler_interval=interval,
        keep=kept,
        checkpoint_dir=state,
        resume=resume,
    )
    if not is_main():
        return
    used = chosen.as_dict() | {
        "compile": options["compile"],
        "ema": ema,
        "awp": awp,
        "gradient_clip": gradient_clip,
        "seed": seed,
    }
    used |= {"dataset": data.name, "validation": validation, "keep": kept, "epoch": int(history.attrs["kept_epoch"])}
    save_checkpoint(out, classifier, architecture=arch, classes=data.classes, threat=chosen.threat, recipe=used)
    with written_aside(curve) as aside:
        history.to_csv(aside, index=False)
    _say_training(history, chosen, kept)
    for what, path in {"checkpoint": out, "history": curve, "training": state}.items():
        print(f"{what:<10}  {path}")


def _chosen_recipe(method: Method, name: _RecipeName | None, arch: str, dataset: str, threat: str | None) -> Recipe:
    from art_classwise.datasets import DATASETS
    from art_classwise.threat import ThreatModel
    from art_classwise.trainers.recipes import fast_recipe, paper_recipe, plain_recipe

    ball = None if threat is None else ThreatModel.parse(threat)
    known = dataset if dataset in DATASETS else Path(dataset).stem  # the name it will have once it is loaded
    if name is _RecipeName.fast:
        return fast_recipe(method.value, known, architecture=arch, threat=ball)
    recipe = plain_recipe(method.value) if name is None else paper_recipe(method.value, arch, known)
    return recipe.override(threat=ball)


def _hold_out(data: Dataset, n_examples: int, seed: int) -> tuple[Dataset, Dataset | None]:
    """Part a data set into what is trained on and n examples, drawn from each class in proportion to its size."""
    import numpy as np

    check_whole("--validation", n_examples, 0)
    if n_examples == 0:
        return data, None
    if n_examples >= len(data):
        raise InputError(
            f"--validation {n_examples} leaves nothing to train on: {data.name} has {len(data)} training examples."
        )
    order = np.random.default_rng(seed).permutation(len(data))
    place = np.empty(len(data))  # of each example within its class, from 0 to 1
    for k in range(len(data.classes)):
        of_class = order[data.y[order] == k]
        place[of_class] = (np.arange(len(of_class)) + 0.5) / max(1, len(of_class))
    chosen = np.zeros(len(data), dtype=bool)
    chosen[order[np.argsort(place[order], kind="stable")[:n_examples]]] = True
    return data.take(np.flatnonzero(~chosen)), data.take(np.flatnonzero(chosen))


def _say_training(history: pd.DataFrame, recipe: Recipe, kept: str) -> None:
    last = history.iloc[-1]
    print(
        f"After {len(history)} epochs: loss {last['loss']:.3f}, "
        f"{last['robust']:.1%} of the training examples withstood."
    )
    if "val_robust" in history:
        epoch = int(history.attrs["kept_epoch"])
        row = history.set_index("epoch").loc[epoch]
        print(
            f"Validation at epoch {epoch}: clean {row['val_clean']:.1%}, robust {row['val_robust']:.1%}, "
            f"worst class {row['val_worst']:.1%}."
        )
        print(f"The weights are those of epoch {epoch} (--keep {kept}).")
    print(textwrap.fill(f"{'recipe':<10}  {recipe.name}: {recipe.source}", 80, subsequent_indent=" " * 12))


@app.command()
def audit(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            help="A checkpoint of `train`, robustbench:NAME or robustbench:DATASET/NAME; "
            "repeat it for more. MINE=... names it MINE in the tables.",
        ),
    ],
    dataset: DatasetName = "digits",
    threat: Annotated[
        str | None,
        typer.Option(
            "--threat",
            help="Norm and radius on [0, 1], e.g. Linf:8/255, L2:0.5 or L1:12; the usual one of the data set.",
            show_default=False,
        ),
    ] = None,
    attacks: Annotated[
        str,
        typer.Option(
            "--attacks",
            help="A ladder (quick, standard, blackbox), or names with commas between: fgsm, pgd-20, pgd-100x5, "
            "margin-20, tpgd5-20, autoattack, square, transfer-pgd-20.",
        ),
    ] = "quick",
    surrogate: Annotated[
        str | None,
        typer.Option("--surrogate", help="Model that transfer attacks come from, as --model.", show_default=False),
    ] = None,
    precision: Annotated[
        _Precision, typer.Option("--precision", help="Of searches; verdicts are float32 always.")
    ] = _Precision.auto,
    examples: Annotated[
        int | None,
        typer.Option("--examples", help="How many test examples; all, if not given.", show_default=False),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only examples of this class; give it again for more.", show_default=False),
    ] = None,
    out: Out = Path("runs/audit"),
    class_names: ClassNames = None,
    image_size: ImageSize = None,
    data_dir: Root = None,
    model_dir: Annotated[Path, typer.Option("--model-dir", help="Folder of RobustBench's weights.")] = Path("models"),
    batch_size: Annotated[int, typer.Option("--batch-size")] = 256,
    seed: Seed = 0,
    unsafe_weights: Annotated[
        bool,
        typer.Option("--unsafe-weights", help="Also load RobustBench files that can run code: only trusted ones."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Attack models on a test set and write down, class by class, what withstood."""
    from art_classwise.attacks import usual_threat
    from art_classwise.audit import ClassWiseAudit
    from art_classwise.datasets import load_dataset
    from art_classwise.report import print_tables, report_files, write_report
    from art_classwise.threat import ThreatModel

    names = [a.strip() for a in attacks.split(",")]
    data = load_dataset(dataset, "test", root=data_dir, classes=_split_names(class_names), image_size=image_size)
    data = data.of_classes(class_) if class_ else data
    data = data.first(examples) if examples is not None else data
    ball = ThreatModel.parse(threat) if threat is not None else usual_threat(data.name)

    def load(text: str) -> tuple[str, Any]:
        return _load_model(text, data.name, ball.norm, model_dir, unsafe_weights)

    job = ClassWiseAudit(
        threat,
        names[0] if len(names) == 1 else names,
        surrogate=None if surrogate is None else load(surrogate)[1],
        precision=precision.value,
        store=out,
        seed=seed,
        batch_size=batch_size,
        verbose=not quiet,
        command=shlex.join(["art-classwise", *sys.argv[1:]]),
    )
    models = {}
    for text in model:
        name, classifier = load(text)
        if name in models:
            raise InputError(f"Two models are named {name!r}: name one, e.g. --model mine={text}")
        models[name] = classifier
    result = job.evaluate(models, data)
    write_report(result, out)
    print_tables(result)
    _say_where(report_files(out))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of an audit.")],
) -> None:
    """Write an audit's report, picture and table anew from its outcomes."""
    from art_classwise._files import check_output_folder
    from art_classwise.audit import read_audit
    from art_classwise.report import print_tables, report_files, write_report

    result = read_audit(folder)
    check_output_folder(folder)
    write_report(result, folder)
    print_tables(result)
    _say_where(report_files(folder))


def _split_names(text: str | None) -> str | list[str] | None:
    return [name.strip() for name in text.split(",")] if text and "," in text else text


def _load_model(text: str, dataset: str, norm: str, model_dir: Path, unsafe_weights: bool) -> tuple[str, Any]:
    from art_classwise.zoo import load_checkpoint, load_robustbench

    label, separator, source = text.partition("=")
    if not separator or Path(text).is_file():
        label, source = "", text
    kind, colon, name = source.partition(":")
    if colon and kind == "robustbench":
        zoo, slash, short = name.rpartition("/")
        classifier = load_robustbench(short, zoo if slash else dataset, norm, model_dir, unsafe_weights=unsafe_weights)
        return label or short, classifier
    if not source.endswith(".pt") and not Path(source).is_file():
        raise InputError(f"Unknown model {source!r}. Give the file of a checkpoint (*.pt), or robustbench:NAME.")
    return label or Path(source).stem, load_checkpoint(source)


def _say_where(files: dict[str, Path]) -> None:
    for what, path in files.items():
        print(f"{what:<9} {path}")
