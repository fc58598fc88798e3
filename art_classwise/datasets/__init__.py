"""Labelled images: x float32 (n, C, H, W) in [0, 1], y int64 (n,), class names."""

from art_classwise.datasets.dataset import Dataset, LazyImages
from art_classwise.datasets.load import DATASETS, load_dataset

__all__ = ["DATASETS", "Dataset", "LazyImages", "load_dataset"]
