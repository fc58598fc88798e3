"""Options that all trainers share: one table is what constructors show, check and default to."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from trainable import SMALL, make

import art_classwise as acw
from art_classwise import InputError
from art_classwise.trainers import METHODS, SearchTrainer, TrainingOptions
from art_classwise.trainers.engine.options import OPTIONS, training_options

TRAINERS = [*(spec.trainer for spec in METHODS.values()), acw.AdversarialTrainerAWPPyTorch]


class Own(SearchTrainer):
    """A user's trainer with an option of its own."""

    def __init__(self, classifier, strength=1.0, **options):
        super().__init__(classifier, **options)

    _objective = _parameters = None


@pytest.mark.parametrize("trainer", [SearchTrainer, Own, *TRAINERS])
def test_every_option_is_a_parameter_that_editors_and_notebooks_show(trainer):
    shown = inspect.signature(trainer).parameters
    assert next(iter(shown)) == "classifier"
    assert set(OPTIONS) <= set(shown)
    for name, option in OPTIONS.items():
        assert shown[name].default is option.default or shown[name].default == option.default
        assert f"        {name}: " in TrainingOptions.__doc__
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())


@pytest.mark.parametrize("trainer", [Own, *TRAINERS])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_misspelt_option_is_answered_with_the_nearest_one(trainer, name):
    with pytest.raises(InputError, match=f"Unknown option '{name}s'. Did you mean .*{name}"):
        trainer(make(), **{f"{name}s": 1})


def test_so_is_one_of_the_trainers_own():
    with pytest.raises(InputError, match="Unknown option 'bosted'. Did you mean boosted"):
        acw.AdversarialTrainerMARTPyTorch(make(), bosted=True)
    with pytest.raises(InputError, match="Unknown option 'strenth'. Did you mean strength"):
        Own(make(), strenth=1)


BAD = {
    "norm": [3, "l3", None, True],
    "eps": [0, -1, np.nan, np.inf, "8/255", True],
    "eps_step": [0, -1, np.nan, np.inf, "1"],
    "max_iter": [0, 1.5, True, "10", None],
    "attack": [object(), "pgd"],
    "crop_padding": [-1, 1.5, None],
    "flip": [1, "yes", None],
    "two_passes": [1, None],
    "passes": ["", "x", "cc", 3],
    "attack_mode": ["test", None, 1],
    "friendly_tau": [-1, 0.5, True, "1"],
    "class_balanced": [1, "yes", None],
    "label_smoothing": [-0.1, 1, np.nan, None],
    "gradient_clip": [0, -1, np.inf, "1"],
    "ema_decay": [-0.1, 1, np.nan, "0.9"],
    "awp_gamma": [-0.1, np.inf, np.nan, None],
    "awp_warmup": [-1, 0.5, None],
    "class_policy": ["dafa", 3],
    "excluded": [10, [], "3", [0.5]],
    "precision": ["fp16", None],
    "compile": [1, None],
    "num_workers": [-1, 0.5, None],
    "summary_writer": [3, object()],
    "seed": [-1, 0.5, 2**63, None, True],
    "verbose": [1, None],
}


def test_bad_values_are_listed_for_every_option():
    assert set(BAD) == set(OPTIONS)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(InputError) as caught:
        acw.AdversarialTrainerTRADESPyTorch(make(), **{name: value})
    words = {"norm": "norm", "eps": "radius", "class_policy": "class_policy"}
    assert words.get(name, name) in str(caught.value).replace(" ", "_") or words.get(name, name) in str(caught.value)


def test_options_are_kept_with_their_defaults_as_pythons_own_numbers():
    trainer = acw.AdversarialTrainerMARTPyTorch(make(), **SMALL, awp_warmup=np.int64(2), flip=np.bool_(True))
    defaults = training_options({})
    assert trainer.options == {**defaults, **SMALL, "awp_warmup": 2, "flip": True}
    assert (type(trainer.options["awp_warmup"]), type(trainer.options["flip"])) == (int, bool)
    assert training_options({}) == {name: option.default for name, option in OPTIONS.items()}
