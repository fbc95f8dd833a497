"""Data sets: splits as in Table 1, files verified, faults named."""

import functools
import gzip
import http.server
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import mithridate as mi
from conftest import SHARED
from mithridate.configuration.presets import SETTINGS, setting
from mithridate.data import downloads

needs_files = pytest.mark.skipif(not SHARED.is_dir(), reason="the public data files are not at hand")

# name, features, training and validation rows by default, official test rows
SUBJECTS = [
    pytest.param("digits-0v8", 64, 128, None, id="digits"),
    pytest.param("digits-3v5", 64, 128, None, id="digits-3v5"),
    pytest.param("breast-cancer", 30, 128, None, id="breast-cancer"),
    pytest.param("synthetic", 2, 32, None, id="synthetic"),
    pytest.param("mnist-0v8", 784, 512, (980, 974), id="mnist", marks=needs_files),
    pytest.param("fashion-mnist-0v2", 784, 512, (1000, 1000), id="fashion-mnist", marks=needs_files),
    pytest.param("springer-tench", 2048, 512, (300, 300), id="springer-tench", marks=needs_files),
]


@pytest.fixture(scope="module")
def load():
    return functools.cache(mi.load_dataset)


@pytest.mark.parametrize(("name", "features", "train", "test"), SUBJECTS)
def test_splits_are_those_of_table_1(name, features, train, test, load):
    data = load(name)
    split = data.split(seed=3, index=1)
    assert split.x_train.shape == (train, features)
    assert split.y_train.sum() * 2 == train
    assert split.y_valid.sum() * 2 == len(split.y_valid)
    rows = np.concatenate([split.train_rows, split.valid_rows, [] if data.test else split.test_rows])
    assert len(set(rows)) == len(rows), "a row is in two parts"
    if test:
        assert tuple(np.bincount(split.y_test)) == test
    else:
        assert len(rows) == len(data.y)
    assert split.x_train.dtype == np.float32
    assert (split.low <= split.high).all()


@pytest.mark.parametrize(("name", "features", "train", "test"), SUBJECTS)
def test_rows_are_what_their_numbers_say(name, features, train, test, load):
    data = load(name)
    split = data.split()
    position = {row: i for i, row in enumerate(data.rows)}
    raw = data.x[[position[row] for row in split.train_rows]]
    np.testing.assert_allclose(split.x_train * split.scale + split.offset, raw, rtol=1e-4, atol=1e-4)


def test_splits_depend_on_seed_and_index_alone(load):
    data = load("digits-0v8")
    first, again = data.split(seed=1, index=2), data.split(seed=1, index=2)
    np.testing.assert_array_equal(first.train_rows, again.train_rows)
    for other in (data.split(seed=2, index=2), data.split(seed=1, index=3)):
        assert not np.array_equal(first.train_rows, other.train_rows)


def test_standardising_uses_the_training_rows_alone(load):
    split = load("breast-cancer").split()
    np.testing.assert_allclose(split.x_train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(split.x_train.std(axis=0), 1, rtol=1e-4)
    assert np.abs(split.x_valid.mean(axis=0)).max() > 1e-3
    np.testing.assert_allclose(split.low, split.x_train.min(axis=0), rtol=1e-5)


@needs_files
def test_the_rows_of_mnist_are_those_of_the_official_file(load):
    data = load("mnist-3v5")
    labels = downloads.read_idx(SHARED / "mnist" / "train-labels-idx1-ubyte.gz")
    assert data.classes == ("3", "5")
    np.testing.assert_array_equal(labels[data.rows], np.where(data.y, 5, 3))
    split = data.split()
    assert split.x_train.min() == 0
    assert split.x_train.max() == 1


def test_synthetic_has_the_moments_of_the_paper(load):
    data = load("synthetic")
    for label, mean in ((0, -3.0), (1, 3.0)):
        x = data.x[data.y == label]
        np.testing.assert_allclose(x.mean(axis=0), [mean, 0], atol=0.1)
        np.testing.assert_allclose(np.cov(x.T), np.diag([2.5, 1.5]), atol=0.2)


def write_dogfish(folder: Path, rng: np.random.Generator, **arrays) -> None:
    folder.mkdir(parents=True)
    for part, n in (("train", 30), ("test", 10)):
        found = {"inception_features_val": rng.normal(size=(n, 6)), "labels": np.arange(n) % 2}
        found |= {name: make(n) for name, make in arrays.items()}
        np.savez(folder / f"dogfish_900_300_inception_features_{part}.npz", **found)


def test_dogfish_is_read_from_the_files_of_koh_and_liang(tmp_path, monkeypatch, rng):
    monkeypatch.setenv("MITHRIDATE_DATA_DIR", str(tmp_path))
    write_dogfish(tmp_path / "dogfish", rng)
    split = mi.load_dataset("dogfish").split(train=10, valid=10)
    assert split.x_train.shape == (10, 6)
    assert split.high.max() == 0.5
    assert len(split.y_test) == 10


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": lambda n: np.zeros(n)}, "two classes"),
        ({"labels": lambda n: np.array([{"pickled": 1}] * n, dtype=object)}, "cannot be read"),
        ({"inception_features_val": lambda n: np.full((n, 6), np.nan)}, "NaN or infinite"),
    ],
)
def test_faulty_feature_files_are_refused(tmp_path, monkeypatch, rng, arrays, message):
    monkeypatch.setenv("MITHRIDATE_DATA_DIR", str(tmp_path))
    write_dogfish(tmp_path / "dogfish", rng, **arrays)
    with pytest.raises(mi.MithridateError, match=message):
        mi.load_dataset("dogfish")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnsit-0v8", "did you mean mnist-0v8"),
        ("mnist-0v12", "no class '12'"),
        ("digits-4v4", "the two classes are the same"),
        ("mnits", "did you mean mnist"),
        ("breast-cancer-0v1", "did you mean"),
        ("", "did you mean"),
    ],
)
def test_names_that_are_none_are_refused(name, message):
    with pytest.raises(mi.InputError, match=message):
        mi.load_dataset(name)


@pytest.mark.parametrize(("train", "valid"), [(300, 100), (100, 300), (176, 176), (1, 60), (0, 60)])
def test_more_rows_than_there_are_and_fewer_than_two_are_refused(load, train, valid):
    with pytest.raises(mi.InputError, match="train = "):
        load("digits-0v8").split(train=train, valid=valid)


def test_features_that_are_not_finite_are_refused():
    x = np.zeros((10, 3))
    x[4, 1] = np.inf
    y, rows, classes = np.arange(10) % 2, np.arange(10), ("a", "b")
    with pytest.raises(mi.InputError, match="row 4, column 1"):
        mi.Dataset("mine", x, y, rows, classes, "here")
    x[4, 1] = 0
    with pytest.raises(mi.InputError, match="row numbers"):
        mi.Dataset("mine", x, y, rows[:5], classes, "here")
    with pytest.raises(mi.InputError, match="test rows need"):
        mi.Dataset("mine", x, y, rows, classes, "here", (x[:, :2], y, rows))


def test_missing_files_that_cannot_be_downloaded_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MITHRIDATE_DATA_DIR", str(tmp_path))
    for name in ("dogfish", "springer-tench"):
        with pytest.raises(mi.DataError, match=r"is missing and cannot be downloaded.*MITHRIDATE_DATA_DIR"):
            mi.load_dataset(name)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A real HTTP server on this machine that serves the folder `served` as the source of springer-tench."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args) -> None:
            return

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        source = downloads.SOURCES["springer-tench"]
        url = f"http://127.0.0.1:{running.server_port}/"
        monkeypatch.setitem(downloads.SOURCES, "springer-tench", downloads.Source(source.files, source.origin, (url,)))
        monkeypatch.setenv("MITHRIDATE_DATA_DIR", str(tmp_path / "cache"))
        yield folder
        running.shutdown()


@needs_files
def test_a_download_is_verified_and_kept(server, tmp_path):
    for name in ("train.npz", "test.npz"):
        shutil.copy(SHARED / "springer-tench" / name, server / name)
    assert mi.load_dataset("springer-tench").x.shape == (1800, 2048)
    shutil.rmtree(server)
    assert mi.load_dataset("springer-tench").x.shape == (1800, 2048)


@needs_files
@pytest.mark.parametrize("harm", ["truncated", "tampered", "missing"])
def test_a_bad_download_is_refused_and_nothing_of_it_is_kept(server, tmp_path, harm):
    content = (SHARED / "springer-tench" / "train.npz").read_bytes()
    if harm == "truncated":
        (server / "train.npz").write_bytes(content[:1000])
    if harm == "tampered":
        (server / "train.npz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    message = "HTTPError" if harm == "missing" else "truncated or was tampered"
    with pytest.raises(mi.DataError, match=message):
        mi.load_dataset("springer-tench")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@needs_files
def test_a_corrupt_file_in_the_cache_is_named_and_left_alone(tmp_path, monkeypatch):
    folder = tmp_path / "mnist"
    shutil.copytree(SHARED / "mnist", folder)
    damaged = folder / "train-labels-idx1-ubyte.gz"
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes()[:-7])
    before = damaged.read_bytes()
    monkeypatch.setenv("MITHRIDATE_DATA_DIR", str(tmp_path))
    with pytest.raises(mi.DataError, match=r"train-labels-idx1-ubyte.gz is corrupt.*delete it"):
        mi.load_dataset("mnist-0v8")
    assert damaged.read_bytes() == before


def test_idx_files_that_are_none_are_refused(tmp_path):
    for content in (b"", b"\x1f\x8b", gzip.compress(b"hello world"), gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc")):
        path = tmp_path / "file.gz"
        path.write_bytes(content)
        with pytest.raises(mi.DataError, match="cannot be read"):
            downloads.read_idx(path)


def test_settings_are_found_by_name_or_family():
    assert setting("mnist-0v8") is SETTINGS["mnist"]
    assert setting("fashion-mnist-0v2") is SETTINGS["fashion-mnist"]
    assert setting("springer-tench") is SETTINGS["springer-tench"]
    assert setting("somebody-s-own") is SETTINGS["breast-cancer"]
