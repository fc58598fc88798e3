"""A small audit of two networks under three attacks, sealed, with its page: each test has a copy to forge."""

from __future__ import annotations

import shutil

import pytest
from small_audit import make_classifier, make_data, result

from art_classwise.audit.image_file import keep_images
from art_classwise.audit.store import Store
from art_classwise.report import write_report

MODELS = ("net", "other")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The stores as the audit left them, by whether broken examples leave; never changed."""
    stores = {}
    for worst_case in (False, True):
        store = tmp_path_factory.mktemp("sealed") / "store"
        found = result(store, MODELS, worst_case=worst_case, checks=True, attacks=("fgsm", "pgd-3", "margin-5"))
        images = found.with_images({name: make_classifier(name) for name in MODELS}, make_data())
        keep_images(images.images, images.manifest, Store(store))
        write_report(_read(store), store)
        stores[worst_case] = store
    return stores


def _read(store):
    from art_classwise import read_audit

    return read_audit(store)


@pytest.fixture
def store(made, tmp_path):
    """One of each shard, model and attack: no worst case."""
    return shutil.copytree(made[False], tmp_path / "store")


@pytest.fixture
def chain(made, tmp_path):
    """The worst case."""
    return shutil.copytree(made[True], tmp_path / "chain")
