"""Training steps of this package and of others, which speed.py times."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from lib.machine import moved, placed_by_art
from lib.setups import network as network_of
from torch import Tensor, nn
from torch.nn import functional

import art_classwise as acw

EPS, STEP, STEPS = 0.031, 0.007, 10  # MART's for CIFAR-10

TRAINERS = ("ART TRADES", "published MART", "ours MART", "ours MART exact", "ours MART fp32", "ours TRADES")


class _Plain(nn.Module):
    """A sequence as a plain module: of an ``nn.Sequential`` ART's TRADES takes the first layer's outputs for logits."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def random_network(name: str, shape: tuple[int, ...] = (3, 32, 32), n_classes: int = 10) -> nn.Module:
    """Return a network of random weights: ``"cnn-a"``, or an architecture by its name."""
    if name == "cnn-a":
        return _Plain(network_of(name, shape, n_classes))
    return acw.build(name, shape, n_classes, seed=0)


def time_training(
    name: str,
    n_images: int,
    batch_size: int,
    repeats: int,
    device: str | None = None,
    network: str = "resnet18",
) -> tuple[list[float], Any, np.ndarray]:
    """Train a network on random images of CIFAR's shape, an epoch to warm up and then some.

    Args:
        name: One of :data:`TRAINERS`, with " compiled" after it for torch.compile.
        n_images: Images in an epoch.
        batch_size: Images in a step.
        repeats: Epochs to time.
        device: Where; the GPU where there is one, if absent.
        network: As :func:`random_network` takes it.

    Returns:
        The seconds of each epoch, the classifier, and the images.
    """
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 256, (n_images, 3, 32, 32)) / 255).astype(np.float32)
    y = rng.integers(0, 10, n_images)
    module = random_network(network)
    classifier = moved(acw.as_classifier(module, (3, 32, 32), 10, device=placed_by_art(device)), device)
    classifier._optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=3.5e-3)
    if name.startswith("ours"):
        options: dict[str, Any] = {"eps": EPS, "eps_step": STEP, "max_iter": STEPS, "verbose": False}
        options |= {"crop_padding": 4, "flip": True, "compile": "compiled" in name}
        options |= {"precision": "fp32"} if "fp32" in name else {}
        if "TRADES" in name:
            trainer = acw.AdversarialTrainerTRADESPyTorch(classifier, **options)
        else:
            trainer = acw.AdversarialTrainerMARTPyTorch(classifier, exact="exact" in name, **options)
        history = trainer.fit(x, y, batch_size=batch_size, nb_epochs=1 + repeats)
        return [n_images / speed for speed in history["images_per_second"].iloc[1:]], classifier, x
    epoch = (
        _arts_trades(classifier, x, y, batch_size) if name == "ART TRADES" else _published(classifier, x, y, batch_size)
    )
    epoch()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        epoch()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds, classifier, x


def _arts_trades(classifier: Any, x: np.ndarray, y: np.ndarray, batch_size: int) -> Any:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences.trainer import AdversarialTrainerTRADESPyTorch

    attack = ProjectedGradientDescent(
        classifier, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=batch_size, verbose=False
    )
    trainer = AdversarialTrainerTRADESPyTorch(classifier, attack, beta=6.0)
    return lambda: trainer.fit(x, y, nb_epochs=1, batch_size=batch_size)


def _published(classifier: Any, x: np.ndarray, y: np.ndarray, batch_size: int) -> Any:
    """Return MART's step as its authors' code is described to take it: float32, two forward passes, plain layout."""
    network, optimizer, device = classifier.model, classifier.optimizer, classifier.device

    def epoch() -> None:
        for rows in np.array_split(np.random.default_rng(0).permutation(len(x)), len(x) // batch_size):
            images = torch.from_numpy(x[rows]).to(device)
            labels = torch.from_numpy(y[rows]).to(device)
            x_adv = _attack(network, images, labels)
            network.train()
            optimizer.zero_grad()
            logits, logits_adv = network(images), network(x_adv)
            loss = acw.losses.mart(logits, logits_adv, labels, exact=True).mean()
            loss.backward()
            optimizer.step()

    return epoch


def _attack(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    network.eval()
    x_adv = x + 0.001 * torch.randn_like(x)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(x_adv), y), x_adv)
        x_adv = (x_adv.detach() + STEP * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return x_adv


def forwards_per_image(name: str) -> int:
    """Return the work on an image, counted in forward passes: a backward pass to the input is one more, to weights two.

    A step of the attack is 2, a training pass 3; MART and TRADES train on clean and adversarial images. TRADES predicts
    the clean images once more, before it attacks.
    """
    return 2 * STEPS + 2 * 3 + ("TRADES" in name)
