"""Data files that are damaged or hostile: they read as they were written, or are refused, at no great cost."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import textwrap
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

import art_classwise as acw
from art_classwise import InputError
from art_classwise.datasets import load, load_unlabeled
from tests.support.damage import damaged, loads_the_same_or_is_refused, same

rng = np.random.default_rng(0)


def arrays(n=12):
    return {"x": rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8), "y": rng.integers(0, 3, n)}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("few", [False, True])
def test_damaged_anywhere_an_npz_file_reads_as_it_was_or_not_at_all(save, few, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_LARGE", 0 if few else load._LARGE)
    path = tmp_path / "data.npz"
    save(path, **arrays())
    whole = path.read_bytes()
    save(path, **arrays())
    other = path.read_bytes()

    def read():
        data = acw.load_dataset(path, n_examples=5 if few else None)
        return [data.x, data.y, data.classes, data.ids]

    path.write_bytes(whole)
    expected, loaded = read(), 0
    for how, some in damaged(whole, 150, other=other):
        path.write_bytes(some)
        loaded += loads_the_same_or_is_refused(read, expected, how)
    assert loaded < 75


DTYPES = [np.uint8, np.uint16, np.int64, np.float32, np.float64, np.float16, bool]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("by_class", [False, True])
def test_some_examples_of_a_large_file_are_those_of_the_whole(dtype, save, by_class, tmp_path, monkeypatch):
    """However they are scaled: that follows from values that examples further behind may have."""
    n, path = 40, tmp_path / "data.npz"
    for largest in (1, 100, 255):
        x = rng.random((n, 6, 7, 3)) * 0.2 * (1 if np.dtype(dtype).kind == "f" else largest)
        x = x.astype(dtype)
        x[-1, 0, 0, 0] = largest if np.dtype(dtype).kind in "iu" else 1
        y = rng.integers(0, 3, n)
        save(path, images=x, labels=np.sort(y) if by_class else y)
        found = []
        for limit in (load._LARGE, 0):
            monkeypatch.setattr(load, "_LARGE", limit)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                data = acw.load_dataset(path, n_examples=7)
            found.append([data.x, data.y, data.ids, data.classes, [str(one.message) for one in told]])
            monkeypatch.undo()
        assert same(*found)


def test_a_value_that_is_wrong_anywhere_is_told_whatever_part_is_asked_for(tmp_path, monkeypatch):
    for value in (np.nan, np.inf, -3.0, 7.0, 1e300):
        x = rng.random((20, 1, 4, 4))
        x[17, 0, 2, 2] = value
        np.savez(tmp_path / "data.npz", x=x, y=np.arange(20) % 2)
        says = []
        for limit in (load._LARGE, 0):
            monkeypatch.setattr(load, "_LARGE", limit)
            with pytest.raises(InputError) as caught:
                acw.load_dataset(tmp_path / "data.npz", n_examples=3)
            says.append(str(caught.value))
        assert says[0] == says[1]


def png(path, width, height):
    """Write a grey PNG, of which only the header is meant to be read."""
    data = zlib.compress(bytes(10_000))
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    content = b"\x89PNG\r\n\x1a\n"
    for name, chunk in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b"")):
        content += len(chunk).to_bytes(4, "big") + name + chunk + zlib.crc32(name + chunk).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    for name in ("ape", "bat"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    return tmp_path / "set"


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tiff", "webp", "ppm"])
def test_damaged_images_are_read_or_refused(ending, tmp_path):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
        file, {"jpg": "jpeg"}.get(ending, ending), **({"lossless": True} if ending == "webp" else {})
    )
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / f"0.{ending}"
    for how, some in damaged(file.getvalue(), 80):
        path.write_bytes(some)
        for size in (None, 6):
            try:
                read = np.asarray(load_unlabeled(tmp_path, image_size=size).x)
            except InputError as error:
                assert "\n" not in str(error), how  # noqa: PT017 - some formats have no checksum
            else:
                assert read.dtype == np.float32
                assert read.shape[0] == 1


def test_a_huge_image_among_small_ones_is_refused_by_its_header(folder):
    png(folder / "bat" / "1.png", 12_000, 12_000)
    with pytest.raises(InputError, match=r"1.png can't be read as an image: Image size .144000000 pixels. exceeds"):
        acw.load_dataset(folder)
    png(folder / "bat" / "1.png", 9_000, 9_000)
    with pytest.raises(InputError, match=r"1.png has 9,000 x 9,000 pixels, but .*0.png 8 x 8: images must be of one"):
        acw.load_dataset(folder)
    png(folder / "ape" / "0.png", 30_000, 30_000)
    for size in (None, 8):
        with pytest.raises(InputError, match=r"0.png can't be read as an image: Image size"):
            acw.load_dataset(folder, image_size=size)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_socket, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_not_waited_for(make, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    for path in (folder / "bat" / "1.png", tmp_path / "d.npz", tmp_path / "d.pickle"):
        path.unlink(missing_ok=True)
        make(path.relative_to(tmp_path))
    reads = [
        lambda: acw.load_dataset(tmp_path / "d.npz"),
        lambda: load_unlabeled(tmp_path / "d.npz"),
        lambda: acw.datasets.convert_pickle(tmp_path / "d.pickle", tmp_path / "e.npz"),
    ]
    if make is not os.mkdir:  # a folder is no image, whatever its name
        reads.append(lambda: acw.load_dataset(folder))
    for read in reads:
        with pytest.raises(InputError):
            read()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory")
def test_hostile_data_cost_little_memory(folder, tmp_path):
    """In a process of its own that may take 400 MB more than it has."""
    made = tmp_path / "made"
    made.mkdir()
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 18, 3, 32, 32)})
    with zipfile.ZipFile(made / "zeros.npz", "w", zipfile.ZIP_DEFLATED) as archive:  # 805 MB in 800 kB
        with archive.open("x.npy", "w", force_zip64=True) as file:
            file.write(head.getvalue())
            for _ in range(256):
                file.write(bytes(1024 * 3 * 32 * 32))
        with archive.open("y.npy", "w") as file:
            np.save(file, np.zeros(1 << 18, np.int8))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 3, 8, 8)})
    with zipfile.ZipFile(made / "claims.npz", "w") as archive:
        archive.writestr("x.npy", head.getvalue() + bytes(99))
        archive.writestr("y.npy", head.getvalue())
    png(folder / "bat" / "1.png", 8_000, 8_000)
    script = f"""
        import pathlib, resource
        import numpy as np
        import art_classwise as acw
        acw.load_dataset({str(folder / "..")!r} + "/set", image_size=8).x[:2]  # imports
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 400 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        print(acw.load_dataset({str(made / "zeros.npz")!r}, n_examples=20, classes=["a", "b"]).x.shape)
        for path, n in (("made/zeros.npz", None), ("made/claims.npz", 20), ("set", None)):
            try:
                acw.load_dataset({str(tmp_path)!r} + "/" + path, n_examples=n)
            except acw.InputError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    some, whole, claims, image = done.stdout.splitlines()
    assert some == "(20, 3, 32, 32)"
    assert "zeros.npz doesn't fit into memory" in whole
    assert "says that it holds float64 (1099511627776, 3, 8, 8)" in claims
    assert "has 8,000 x 8,000 pixels" in image
