"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import io
import shlex
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from art_classwise import __version__
from art_classwise.errors import InputError

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
    mart = "mart"


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
Threat = Annotated[str, typer.Option("--threat", help="Norm and radius on [0, 1], e.g. Linf:8/255 or L2:0.5.")]


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
    method: Annotated[Method, typer.Argument(help="Adversarial training method.")],
    out: Annotated[Path, typer.Option("--out", help="The checkpoint file to write, e.g. mart.pt.")],
    dataset: DatasetName = "digits",
    arch: Annotated[
        str, typer.Option("--arch", help="digits-cnn, mnist-cnn, resnet18, preactresnet18, wrn-34-10, ...")
    ] = "digits-cnn",
    threat: Threat = "Linf:8/255",
    epochs: Annotated[int, typer.Option("--epochs")] = 30,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 128,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate; a cosine takes it to 0.")] = 0.05,
    steps: Annotated[int, typer.Option("--steps", help="Steps of the training attack.")] = 10,
    beta: Annotated[
        float | None, typer.Option("--beta", help="MART's weight of the KL term; 5, if not given.", show_default=False)
    ] = None,
    class_names: ClassNames = None,
    image_size: ImageSize = None,
    data_dir: Root = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a network adversarially and save it as a checkpoint."""
    import numpy as np
    import torch

    from art_classwise._files import check_output_folder
    from art_classwise.datasets import load_dataset
    from art_classwise.threat import ThreatModel
    from art_classwise.trainers import AdversarialTrainerMARTPyTorch, AdversarialTrainerStandardPyTorch
    from art_classwise.zoo import as_classifier, build, save_checkpoint

    ball = ThreatModel.parse(threat)
    if not 0 < lr < float("inf"):
        raise InputError(f"--lr must be a finite number above 0, but got {lr}.")
    if beta is not None and method is not Method.mart:
        raise InputError(f"--beta is a parameter of mart; {method.value} has none.")
    if out.is_dir():
        raise InputError(f"--out must be a file, such as {out / (method.value + '.pt')}, but {out} is a folder.")
    check_output_folder(out.absolute().parent)
    data = load_dataset(dataset, "train", root=data_dir, classes=_split_names(class_names), image_size=image_size)
    network = build(arch, data.input_shape, len(data.classes), seed=seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    classifier = as_classifier(network, data.input_shape, len(data.classes), optimizer=optimizer)
    options: dict[str, Any] = {"norm": ball.art_norm, "eps": ball.eps, "max_iter": steps, "seed": seed}
    recipe: dict[str, Any] = {"method": method.value, "dataset": data.name, "epochs": epochs, "lr": lr}
    recipe |= {"batch_size": batch_size, "steps": steps, "seed": seed}
    trainer: AdversarialTrainerMARTPyTorch | AdversarialTrainerStandardPyTorch
    if method is Method.mart:
        recipe["beta"] = 5.0 if beta is None else beta
        trainer = AdversarialTrainerMARTPyTorch(classifier, beta=recipe["beta"], verbose=not quiet, **options)
    else:
        trainer = AdversarialTrainerStandardPyTorch(classifier, verbose=not quiet, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs))
    history = trainer.fit(np.asarray(data.x), data.y, batch_size=batch_size, nb_epochs=epochs, scheduler=schedule)
    save_checkpoint(out, classifier, architecture=arch, classes=data.classes, threat=ball, recipe=recipe)
    last = history.iloc[-1]
    print(f"After {epochs} epochs: loss {last['loss']:.3f}, {last['robust']:.1%} of the training examples withstood.")
    print(f"checkpoint  {out}")


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
