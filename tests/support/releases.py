"""What the tests against the authors' released code share: a small network with batch norm, its data, plain attacks.

A trainer is watched for the order of its batches and for the uniform numbers of its starts; a transcription of the
authors' loop, written from what their code does, then trains a network of the same beginning on them.
"""

from __future__ import annotations

import copy
import math
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

import art_classwise as acw
from art_classwise._core.random_numbers import gaussian
from art_classwise.trainers.engine import adversary as attacks_in_training

STANDARD, TRADES, MART, BAT = (
    acw.AdversarialTrainerStandardPyTorch,
    acw.AdversarialTrainerTRADESPyTorch,
    acw.AdversarialTrainerMARTPyTorch,
    acw.AdversarialTrainerBATPyTorch,
)
C, EPS, STEP, STEPS, BATCH = 4, 0.06, 0.02, 3, 12


def images(n, seed):
    """Images that are a class's pattern under noise, equally many of each class, away from the box's borders."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).uniform(0.38, 0.62, (C, 1, 5, 5))
    y = rng.permutation(np.arange(n) % C)
    return (patterns[y] + rng.uniform(-0.12, 0.12, (n, 1, 5, 5))).astype(np.float32), y


TRAIN, VALIDATION = images(4 * BATCH, 1), images(2 * BATCH, 2)
LR, MOMENTUM = 0.01, 0.9
FAR = 10
"""How many times as far from x starts lie as the releases': so near to it the KL's gradient is what rounding leaves."""


class Network(nn.Module):
    """Smooth, so that no gradient is zero whose sign is stepped along."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.Linear(4 * 16, C)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).tanh().flatten(1))


def begin(weight_decay=5e-4):
    """A network in train mode, the same each time, and its optimizer."""
    torch.manual_seed(0)
    model = Network()
    return model, torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=weight_decay)


class Draws:
    """The uniform numbers that an attack is going to draw, and what it found."""

    def __init__(self, uniform):
        self._uniform, self.found = copy.deepcopy(uniform), None

    def __call__(self, *shape):
        return self._uniform(*shape)

    def agreed(self, x_adv, found=None):
        """What the trainer's attack found, if it is what a transcription found.

        But for a pixel here and there: where a gradient is next to zero, its sign is a matter of rounding.
        """
        found = self.found if found is None else found
        torch.testing.assert_close(x_adv.mean(), found.mean(), rtol=0, atol=1e-3)
        assert ((x_adv - found).abs() > 1e-6).double().mean() < 0.02
        return found


def train(method, nb_epochs=2, weight_decay=5e-4, batch_size=BATCH, **options):
    """Train as the package does; return the network, the batches of each epoch, those of validation, and the history.

    A batch is images, labels and the numbers that the attack is going to draw.
    """
    model, optimizer = begin(weight_decay)
    classifier = acw.as_classifier(model, (1, 5, 5), C, optimizer=optimizer, device="cpu")
    settings = {"eps": EPS, "eps_step": STEP, "max_iter": STEPS, "precision": "fp32", "verbose": False}
    trainer = method(classifier, **settings | options)
    seen, real = {True: [], False: []}, trainer._adversary

    def watched(**given):
        adversary = real(**given)

        def attack(module, x, y, uniform, budgets=None):
            draws = Draws(uniform)
            draws.found = adversary(module, x, y, uniform, budgets)
            seen[bool(given)].append((x.clone(), y.clone(), draws))
            return draws.found.clone()

        return attack

    trainer._adversary = watched
    with patch.object(attacks_in_training, "gaussian", lambda *given: FAR * gaussian(*given)):
        history = trainer.fit(*TRAIN, batch_size=batch_size, nb_epochs=nb_epochs, validation_data=VALIDATION)
    batches, held_out = (np.array_split(np.arange(len(seen[kind])), nb_epochs) for kind in (True, False))
    by_epoch = [[seen[True][i] for i in epoch] for epoch in batches]
    return model, by_epoch, [[seen[False][i] for i in epoch] for epoch in held_out], history


def check_same(model, expected, tolerance=1e-6):
    """Weights, and batch norm's running statistics."""
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: n + m)


def normal_start(x, draw, eps=EPS):
    """x + 0.001 N(0, 1), of two uniform draws (Box and Muller), but as far as those in train()."""
    u, v = draw(*x.shape), draw(*x.shape)
    z = x + 0.001 * FAR * (-2 * u.log()).sqrt() * (2 * math.pi * v).cos()
    return x + (z - x)  # rounded as the package rounds it: next to x signs of gradients depend on it


def uniform_start(x, draw, eps=EPS):
    z = x + eps * (2 * draw(*x.shape) - 1)
    return x + (z - x)


def divergence(clean, attacked):
    """KL of the prediction under attack from the clean one, of logits, for each example."""
    log_p, log_q = log_softmax(clean, 1), log_softmax(attacked, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def step_of(model, x, z, loss, eps, step):
    """One step of the attack from z, in the mode that the model is in."""
    z = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(model(z)).sum(), z)
    z = z.detach() + step * gradient.sign()
    return (x + (z - x).clamp(-eps, eps)).clamp(0, 1)


def attack_kl(model, x, draw, eps=EPS, step=STEP):
    """TRADES' attack, in eval mode."""
    model.eval()
    clean = model(x).detach()
    z = normal_start(x, draw)
    for _ in range(STEPS):
        z = step_of(model, x, z, lambda logits: divergence(clean, logits), eps, step)
    model.train()
    return draw.agreed(z)


def attack_ce(model, x, y, draw, start, eps=EPS, *, training=False):
    """PGD on cross-entropy, in eval mode or in train mode."""
    model.train(training)
    z = start(x, draw, eps)
    for _ in range(STEPS):
        z = step_of(model, x, z, lambda logits: cross_entropy(logits, y, reduction="none"), eps, STEP)
    model.train()
    return draw.agreed(z)


def descend(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def each(values):
    """Class values as the budgets of images."""
    return values.float().view(-1, 1, 1, 1)


def perturbed(model, loss, gamma):
    """What is added to each weight: along one step of a copy that ascends the loss."""
    proxy = copy.deepcopy(model).train()
    gradients = torch.autograd.grad(loss(proxy), list(proxy.parameters()))
    changes = {}
    for (name, weight), gradient in zip(model.named_parameters(), gradients, strict=True):
        if "weight" in name and weight.dim() > 1:
            changes[name] = gamma * weight.detach().norm() / (gradient.norm() + 1e-20) * gradient
    return changes


def shift(model, changes, sign):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in changes:
                weight += sign * changes[name]
