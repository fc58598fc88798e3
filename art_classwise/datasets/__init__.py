"""Data sets as float32 images (n, C, H, W) in [0, 1] and int64 labels (n,)."""

from art_classwise.datasets.dataset import Dataset, LazyImages
from art_classwise.datasets.load import DATASETS, Unlabeled, load_dataset, load_unlabeled

__all__ = ["DATASETS", "Dataset", "LazyImages", "Unlabeled", "load_dataset", "load_unlabeled"]
