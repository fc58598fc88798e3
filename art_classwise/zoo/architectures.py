"""Network architectures by name: ours, RobustBench's for CIFAR, torchvision's, timm's and the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from torch import nn

from art_classwise._core.state import preserved_random_state
from art_classwise.errors import InputError, check_seed, check_whole, first_line, printable, shown, unknown
from art_classwise.zoo.building import within_memory
from art_classwise.zoo.classifier import checked_shape
from art_classwise.zoo.image_sizes import check_takes, refusing_size
from art_classwise.zoo.residual import SMALLEST, PreActResNet, ResNet, check_size, reduction_for
from art_classwise.zoo.wide import SwishWideResNet, WideResNet

__all__ = ["ARCHITECTURES", "build", "runs_code"]

Shape = tuple[int, ...]


def build(name: str, input_shape: Sequence[int], n_classes: int, *, seed: int | None = None) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: ``"digits-cnn"``, ``"mnist-cnn"``, ``"resnet8"``, ``"resnet14"``, ``"resnet20"``, ``"resnet8-stem2"``,
            ``"resnet18"``, ``"preactresnet18"``, ``"wrn-<depth>-<width>"`` or ``"wrn-<depth>-<width>-swish"``;
            ``"torchvision:NAME"`` or ``"timm:NAME"``, of which the former's names may stand alone where none of ours is
            meant (``"vgg16"``); or ``"FILE.py:CALLABLE"`` or ``"PACKAGE.MODULE:CALLABLE"``, a function or class of
            yours that returns a module. That file is run. It is given the number of classes and the shape of images if
            it has parameters for them: ``num_classes`` or ``n_classes``, ``input_shape``, ``in_channels`` or
            ``in_chans``.
        input_shape: (C, H, W).
        n_classes: Number of classes.
        seed: Of the weights; the global random state decides if absent.

    Returns:
        The network, on the CPU. It takes images in [0, 1] and returns logits.

    Raises:
        InputError: Unknown architecture, or one that doesn't take such images; or the callable isn't there, fails, or
            returns no module.
    """
    shape = checked_shape(input_shape)
    n_classes = check_whole("n_classes", n_classes, 2)
    if len(shape) != 3:
        raise InputError(f"`input_shape` must be the shape of an image, (C, H, W), but got {shape}.")
    make = _maker(name)
    if seed is not None:
        check_seed(seed)
    with (
        within_memory(f"The network {printable(name)}"),
        nullcontext() if seed is None else preserved_random_state(seed),
    ):
        return make(shape, n_classes)


def runs_code(name: str) -> bool:
    """Return whether building a network of this name runs a file or module that the name says."""
    return ":" in name and name.partition(":")[0] not in ("torchvision", "timm")


def check_architecture(name: str) -> None:
    """Check that there is an architecture of this name; a file that builds one isn't run.

    Raises:
        InputError: There is none, or no such file.
    """
    _maker(name)
    library, _, _ = name.rpartition(":")
    if runs_code(name) and library.endswith(".py") and not Path(library).is_file():
        raise InputError(f"There is no file {printable(library)}.")


def _maker(name: str) -> Callable[[Shape, int], nn.Module]:
    """Return what builds a network of this name."""
    if not isinstance(name, str):
        raise unknown("architecture", shown(name), ARCHITECTURES)
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if wide := re.fullmatch(r"wrn-(\d{1,9})-(\d{1,9})(-swish)?", name):
        return partial(_wide_resnet, int(wide[1]), int(wide[2]), wide[3] is not None)
    library, _, within = name.rpartition(":")
    if runs_code(name):
        return partial(_from_callable, library, within)
    if library == "timm":
        known = _timm().list_models()
        if within in known:
            return partial(_from_timm, within)
        raise unknown("architecture of timm", within, known)
    from torchvision import models

    classifiers = models.list_models(module=models)
    if within in classifiers:
        return partial(_from_torchvision, within)
    if library:
        raise unknown("architecture of torchvision", within, classifiers)
    raise unknown(
        "architecture",
        name,
        ARCHITECTURES,
        hint='Wide ResNets are written "wrn-34-10" or "wrn-28-10-swish", others\' networks "torchvision:resnet50", '
        '"timm:convnext_tiny" or "file.py:callable".',
    )


def _from_torchvision(name: str, shape: Shape, n_classes: int) -> nn.Module:
    from torchvision import models

    _need_colour(f"torchvision:{name}", shape)
    options = _WITHOUT_AUXILIARY.get(name, {})
    if name.startswith("vit_"):  # their positions are learnt for one size
        options = {"image_size": shape[1]}
    with refusing_size(f"torchvision:{name}", shape):
        network: nn.Module = models.get_model(name, weights=None, num_classes=n_classes, **options)
    check_takes(network, f"torchvision:{name}", shape)
    return network


def _timm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        return importlib.import_module("timm")


def _from_timm(name: str, shape: Shape, n_classes: int) -> nn.Module:
    timm = _timm()
    options: dict[str, Any] = {"pretrained": False, "num_classes": n_classes, "in_chans": shape[0]}
    with refusing_size(f"timm:{name}", shape):
        try:
            network: nn.Module = timm.create_model(name, **options, img_size=shape[1:])
        except TypeError:  # most take images of any size, and none by name
            network = timm.create_model(name, **options)
    check_takes(network, f"timm:{name}", shape)
    return network


# Their training forward returns auxiliary logits, too.
_WITHOUT_AUXILIARY: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def _from_callable(where: str, name: str, shape: Shape, n_classes: int) -> nn.Module:
    """Call a function or class of the user's that lies in a file or an installed module."""
    spelled = f"{where}:{name}"
    make = _callable(where, name)
    known = {
        **dict.fromkeys(("num_classes", "n_classes", "nb_classes", "classes"), n_classes),
        **dict.fromkeys(("in_channels", "in_chans", "n_channels"), shape[0]),
        "input_shape": shape,
    }
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # a callable that doesn't tell
        parameters = MappingProxyType({})
    taken = {parameter: known[parameter] for parameter in parameters if parameter in known}
    try:
        network = make(**taken)
    except Exception as error:  # of the user's own code: of any kind
        given = ", ".join(f"{parameter}={value!r}" for parameter, value in taken.items())
        raise InputError(
            f"{spelled} can't be called as {name}({given}): {type(error).__name__}: {first_line(error)}. Give a "
            "function that needs no arguments beside num_classes, input_shape and in_channels."
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{spelled} must return a torch.nn.Module, but returned a {type(network).__name__}.")
    return network


def _callable(where: str, name: str) -> Callable[..., Any]:
    try:
        if where.endswith(".py"):
            path = Path(where).expanduser()
            if not path.is_file():
                raise InputError(f"There is no file {path.absolute()}, which the architecture {where}:{name} names.")
            spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
            assert spec is not None  # it ends in .py
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)  # which its classes look for when they are pickled
            with _importing_from(path.absolute().parent):
                spec.loader.exec_module(module)
        else:
            with _importing_from(Path.cwd()):
                module = importlib.import_module(where)
    except InputError:
        raise
    except Exception as error:  # of the user's own code: of any kind
        raise InputError(
            f"{where} can't be imported: {type(error).__name__}: {first_line(error)}. An architecture is a built-in "
            "name, torchvision:NAME, timm:NAME, FILE.py:CALLABLE or PACKAGE.MODULE:CALLABLE."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"function or class of {where}", name, public)
    return cast("Callable[..., Any]", found)


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Find modules in a folder, too, as `python FILE.py` does."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))


def _digits_cnn(shape: Shape, n_classes: int) -> nn.Module:
    """Two convolutions and two linear layers; 38,282 weights for 10 classes at 8 x 8."""
    channels, height, width = shape
    if min(height, width) < 2:
        raise InputError(f"digits-cnn takes images of 2 x 2 or larger, but got {height} x {width}.")
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), 64),
        nn.ReLU(),
        nn.Linear(64, n_classes),
    )


def _mnist_cnn(shape: Shape, n_classes: int) -> nn.Module:
    """The SmallCNN of TRADES and MART (4 convolutions, 3 linear layers), with its parameter names."""
    if shape[1:] != (28, 28):
        raise InputError(
            f"mnist-cnn takes images of 28 x 28, but got {shape[1]} x {shape[2]}. Resize them (`image_size=28`), or "
            f"take digits-cnn or a residual network, resnet8, say, which take any from {SMALLEST} x {SMALLEST}."
        )
    features = OrderedDict(
        conv1=nn.Conv2d(shape[0], 32, 3),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 32, 3),
        relu2=nn.ReLU(),
        maxpool1=nn.MaxPool2d(2),
        conv3=nn.Conv2d(32, 64, 3),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(64, 64, 3),
        relu4=nn.ReLU(),
        maxpool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
    )
    head = OrderedDict(
        fc1=nn.Linear(1024, 200),
        relu1=nn.ReLU(),
        drop=nn.Dropout(0.5),
        fc2=nn.Linear(200, 200),
        relu2=nn.ReLU(),
        fc3=nn.Linear(200, n_classes),
    )
    return nn.Sequential(OrderedDict(feature_extractor=nn.Sequential(features), classifier=nn.Sequential(head)))


def _need_colour(name: str, shape: Shape) -> None:
    if shape[0] != 3:
        raise InputError(f"{name} takes colour images, shape (3, height, width), but got {shape}.")


def _resnet(
    name: str, shape: Shape, n_classes: int, *, widths: Sequence[int], blocks: Sequence[int], lighter: bool = False
) -> nn.Module:
    """A residual network; the stem of a lighter one halves images once more."""
    check_size(name, shape)
    return ResNet(shape, n_classes, widths, blocks, reduction_for(shape) * (2 if lighter else 1))


def _preact_resnet18(shape: Shape, n_classes: int) -> nn.Module:
    check_size("preactresnet18", shape)
    return PreActResNet(shape, n_classes, (64, 128, 256, 512), (2, 2, 2, 2), reduction_for(shape))


def _wide_resnet(depth: int, width: int, swish: bool, shape: Shape, n_classes: int) -> nn.Module:
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise InputError(f"A wide ResNet has 6k + 4 layers (10, 16, 22, 28, 34, ...), not {depth}, and width >= 1.")
    check_size(f"wrn-{depth}-{width}{'-swish' if swish else ''}", shape)
    make = SwishWideResNet if swish else WideResNet
    return make(shape, n_classes, depth, width, reduction_for(shape))


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {
    "digits-cnn": _digits_cnn,
    "mnist-cnn": _mnist_cnn,
    # 6n + 2 layers for CIFAR (He et al. 2016, section 4.2), with 1 x 1 convolutions where the shape changes (option B).
    **{
        f"resnet{6 * n + 2}": partial(_resnet, f"resnet{6 * n + 2}", widths=(16, 32, 64), blocks=(n, n, n))
        for n in (1, 2, 3)
    },
    # Twice as wide on maps of half the side: twice the weights of resnet14 in fewer operations than resnet8's.
    "resnet8-stem2": partial(_resnet, "resnet8-stem2", widths=(32, 64, 128), blocks=(1, 1, 1), lighter=True),
    "resnet18": partial(_resnet, "resnet18", widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2)),
    "preactresnet18": _preact_resnet18,
    "wrn-28-10": partial(_wide_resnet, 28, 10, False),
    "wrn-34-10": partial(_wide_resnet, 34, 10, False),
    "wrn-28-10-swish": partial(_wide_resnet, 28, 10, True),
    "wrn-70-16-swish": partial(_wide_resnet, 70, 16, True),
}
