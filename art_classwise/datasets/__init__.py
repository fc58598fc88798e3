"""Data sets as float32 images (n, C, H, W) in [0, 1] and int64 labels (n,). Names are imported when first used."""

from typing import TYPE_CHECKING

import lazy_loader

from art_classwise.datasets.catalog import DATASETS as DATASETS
from art_classwise.datasets.catalog import DatasetSpec as DatasetSpec

if TYPE_CHECKING:
    from art_classwise.datasets.dataset import Dataset as Dataset
    from art_classwise.datasets.dataset import LazyImages as LazyImages
    from art_classwise.datasets.forms import as_dataset as as_dataset
    from art_classwise.datasets.load import Unlabeled as Unlabeled
    from art_classwise.datasets.load import load_dataset as load_dataset
    from art_classwise.datasets.load import load_unlabeled as load_unlabeled
    from art_classwise.datasets.pickles import convert_pickle as convert_pickle

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalog": ["DATASETS", "DatasetSpec"],
        "dataset": ["Dataset", "LazyImages"],
        "forms": ["as_dataset"],
        "load": ["Unlabeled", "load_dataset", "load_unlabeled"],
        "pickles": ["convert_pickle"],
    },
)
