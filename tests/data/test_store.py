"""The cache: found by content, written whole or not at all."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import nelbo.data.build
from nelbo.data import DataError, IntakeOptions, Store, open_store, threshold_for
from nelbo.data.manifest import content_hash

SMALL = IntakeOptions(image_size=(8, 8))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(20):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{seed:02d}.png")
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NELBO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stores"


def opened(source, options=SMALL):
    return open_store(str(source), options, progress=False)


@pytest.fixture
def no_decoding(monkeypatch):
    def forbid():
        monkeypatch.setattr(nelbo.data.build, "_decode_one", lambda read, options: "decoding was forbidden")

    return forbid


def test_the_second_opening_decodes_nothing(folder, cache, no_decoding):
    first = opened(folder)
    no_decoding()
    second = opened(folder)
    assert first.path == second.path == next(iter(cache.iterdir()))
    np.testing.assert_array_equal(first.images, second.images)
    assert second.names == first.names
    assert second.hashes == [content_hash(image) for image in second.images]
    with pytest.raises(DataError, match="decoding was forbidden"):
        opened(folder, IntakeOptions(image_size=(8, 9)))


def test_the_store_is_found_wherever_the_files_lie(folder, cache, no_decoding):
    path = opened(folder).path
    no_decoding()
    assert opened(folder.rename(folder.with_name("moved"))).path == path


def test_images_are_memory_mapped_and_read_only(folder, cache):
    store = opened(folder)
    assert isinstance(store.images, np.memmap)
    assert store.images.dtype == np.uint8
    assert store.images.shape == (20, 3, 8, 8)
    with pytest.raises(ValueError, match="read-only"):
        store.images[0] = 0


def change_bytes(folder):
    raw = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes((folder / "04.png").read_bytes())
    assert raw != (folder / "03.png").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        change_bytes,
        lambda folder: (folder / "03.png").rename(folder / "03b.png"),
        lambda folder: (folder / "03.png").unlink(),
        lambda folder: (folder / "new.png").write_bytes(b"bad"),
    ],
)
def test_any_change_is_another_store(change, folder, cache):
    before = opened(folder)
    change(folder)
    after = opened(folder)
    assert after.path != before.path
    assert (after.names, after.hashes, after.skipped) != (before.names, before.hashes, before.skipped)


@pytest.mark.parametrize(
    "options",
    [
        IntakeOptions(image_size=(8, 9)),
        IntakeOptions(image_size=(8, 8), channels=1),
        IntakeOptions(image_size=(8, 8), fit="pad"),
        IntakeOptions(image_size=(8, 8), background=(0, 0, 0)),
    ],
)
def test_other_options_are_another_store(options, folder, cache):
    assert opened(folder).path != opened(folder, options).path


def test_a_file_that_changes_meanwhile_names_the_store_by_what_was_decoded(folder, cache, monkeypatch):
    build = nelbo.data.build.build
    first = opened(folder).path

    def changing(source, *rest):
        change_bytes(folder)
        return build(source, *rest)

    monkeypatch.setattr("nelbo.data.store.build", changing)
    second = opened(folder, IntakeOptions(image_size=(9, 8)))
    monkeypatch.undo()
    os.environ["NELBO_CACHE"] = str(cache.parent)
    try:
        assert second.num_duplicates == 1
        assert opened(folder, IntakeOptions(image_size=(9, 8))).path == second.path != first
    finally:
        del os.environ["NELBO_CACHE"]


def test_an_archive_that_changes_meanwhile_is_an_error(folder, cache, monkeypatch, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8, 3), dtype=np.uint8))
    build = nelbo.data.build.build

    def changing(source, *rest):
        np.save(tmp_path / "a.npy", np.zeros((5, 8, 8, 3), dtype=np.uint8))
        return build(source, *rest)

    monkeypatch.setattr("nelbo.data.store.build", changing)
    with pytest.raises(DataError, match="changed while it was being read"):
        opened(tmp_path / "a.npy")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("moment", ["nelbo.data.build.write_manifest", "nelbo.data.cache.os.rename"])
def test_a_crash_before_the_rename_leaves_nothing(moment, folder, cache, monkeypatch):
    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as crashing:
        crashing.setattr(moment, crash)
        # A killed process does not even tidy up.
        crashing.setattr("nelbo.data.cache.shutil.rmtree", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    assert [path.name.startswith(".building-") for path in cache.iterdir()] == [True]
    assert len(opened(folder)) == 20


def test_an_error_is_tidied_up(folder, cache, monkeypatch):
    with monkeypatch.context() as failing:
        failing.setattr("nelbo.data.build.write_manifest", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opened(folder)
    assert list(cache.iterdir()) == []


def test_what_killed_processes_left_is_removed_after_days(folder, cache):
    for name, age in ((".building-old", 3), (".building-new", 1)):
        (cache / name).mkdir(parents=True)
        (cache / name / "images.npy").write_bytes(b"")
        for path in (cache / name / "images.npy", cache / name):
            os.utime(path, (path.stat().st_mtime - age * 86400,) * 2)
    opened(folder)
    assert not (cache / ".building-old").exists()
    assert (cache / ".building-new").exists()


def shorten(store):
    os.truncate(store / "images.npy", 500)


def lengthen(store):
    with open(store / "images.npy", "ab") as file:
        file.write(b"x")


def blank(store):
    np.lib.format.open_memmap(store / "images.npy", mode="r+")[:] = 0


def forget(store):
    manifest = json.loads((store / "store.json").read_text())
    manifest["labels"].pop()
    (store / "store.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        shorten,
        lengthen,
        blank,
        forget,
        lambda store: (store / "images.npy").unlink(),
        lambda store: (store / "store.json").unlink(),
        lambda store: (store / "store.json").write_text("{"),
        lambda store: (store / "store.json").write_text("[]"),
    ],
)
def test_a_damaged_store_is_built_again(damage, folder, cache):
    before = opened(folder)
    expected = {file.name: file.read_bytes() for file in before.path.iterdir()}
    damage(before.path)
    after = opened(folder)
    assert after.path == before.path
    assert {file.name: file.read_bytes() for file in after.path.iterdir()} == expected
    assert len(list(cache.iterdir())) == 1


def test_writers_at_the_same_time_are_harmless(folder, cache):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: opened(folder), range(8)))
    assert len({store.path for store in stores}) == 1
    for store in stores:
        assert store.hashes == [content_hash(image) for image in store.images]
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_names_the_variable(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NELBO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot write to the cache folder .*NELBO_CACHE"):
        opened(folder)


def test_a_full_disk_is_an_error(folder, cache, monkeypatch):
    monkeypatch.setattr("nelbo.data.cache.shutil.disk_usage", lambda path: Usage())
    with pytest.raises(DataError, match="make room"):
        opened(folder)
    assert list(cache.iterdir()) == []


class Usage:
    free = 100


def test_where_the_cache_is(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("NELBO_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert opened(folder).path.parent == tmp_path / "xdg" / "nelbo" / "stores"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert opened(folder).path.parent == tmp_path / "home" / ".cache" / "nelbo" / "stores"


def test_the_manifest_says_everything(folder, cache):
    (folder / "bad.png").write_bytes(b"")
    store = opened(folder)
    manifest = json.loads((store.path / "store.json").read_text())
    assert manifest["format"] == 1
    assert manifest["created_by"].startswith("nelbo ")
    assert manifest["source"] == str(folder)
    assert manifest["options"]["image_size"] == [8, 8]
    assert manifest["skipped"] == [{"name": "bad.png", "reason": "empty file (0 bytes)"}]
    assert manifest["hashes"] == store.hashes


def test_describe_counts(folder, cache):
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "bad.png").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    store = opened(folder)
    assert store.num_duplicates == 1
    assert store.describe() == (
        "21 images, 3×8×8, 1 exact duplicate, 1 file ignored\n1 skipped: bad.png: empty file (0 bytes)"
    )


def test_the_split_of_a_store(folder, cache):
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    store = opened(folder)
    split = store.split(threshold_for(store.hashes, 0.5))
    assert len(split.train) + len(split.held_out) == 21
    held_out = {store.hashes[i] for i in split.held_out}
    assert not held_out & {store.hashes[i] for i in split.train}


def test_progress_goes_to_standard_error(folder, cache, capsys):
    open_store(str(folder), SMALL)
    assert capsys.readouterr().out == ""


def test_labels_among_other_classes(tmp_path):
    """As for a run that knows some of the classes, in another order."""
    store = Store(
        images=np.zeros((5, 3, 2, 2), np.uint8), labels=np.array([0, 2, -1, 1, 0]), class_names=["a", "b", "c"],
        names=[], hashes=[], skipped=[], path=tmp_path,
    )  # fmt: skip
    assert store.labels_among(["c", "x", "a"]).tolist() == [2, 0, -1, -1, 2]
    assert store.labels_among(store.class_names).tolist() == store.labels.tolist()
