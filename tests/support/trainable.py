"""A small network for the digits and trainers at their smallest, as several test files of training use them."""

from __future__ import annotations

import torch
from torch import nn

import art_classwise as acw
from art_classwise.trainers import METHODS

STANDARD, TRADES, MART = (METHODS[name].trainer for name in ("standard", "trades", "mart"))
# BAT and fast training take no attack but their own, and natural training none: they have tests of their own.
UNTAUGHT = {name: spec for name, spec in METHODS.items() if "teacher" not in spec.options}  # others have tests, too
TRAINERS = tuple(spec.trainer for name, spec in UNTAUGHT.items() if name not in ("bat", "fast", "natural"))
SMALL = {"eps": 0.05, "max_iter": 2, "verbose": False}


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 36, 10)

    def forward(self, x):
        return self.head(self.norm(self.features(x)).relu().flatten(1))


class Smooth(nn.Module):
    """Linear but for a tanh, so that literal iterates don't fork at a kink."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))

    def forward(self, x):
        return 3 * self.layers(x)


class Seen(list):
    """The batches of a training: images, labels, adversarial inputs and budgets."""

    def __init__(self, trainer):
        super().__init__()
        real = trainer._adversary

        def watched(**options):
            adversary = real(**options)

            def attack(module, x, y, uniform, budgets=None):
                found = adversary(module, x, y, uniform, budgets)
                if options:
                    self.append((x.clone(), y, found.clone(), budgets))
                return found

            return attack

        trainer._adversary = watched


def make(module=Convolutional, lr=0.1, optimizer=None):
    """An ART classifier of a network with the same weights each time, and SGD if no optimizer's maker is given."""
    torch.manual_seed(0)
    network = module()
    made = (
        torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
        if optimizer is None
        else optimizer(network.parameters())
    )
    return acw.as_classifier(network, (1, 8, 8), 10, optimizer=made, device="cpu")


def weights(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.model.state_dict().values()])
