"""Every kind of source, and every kind of bad file in one."""

import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo.data import DataError, IntakeOptions, open_store

SMALL = IntakeOptions(image_size=(8, 8))


@pytest.fixture
def opened(tmp_path):
    def opened(source, options=SMALL):
        return open_store(str(source), options, cache=tmp_path / "cache", progress=False)

    return opened


def picture(seed, size=(8, 8)):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def save(path, seed=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path, "PNG")


@pytest.fixture
def folder(tmp_path):
    """Five images: two classes (nested), one image in none; and files that are not meant as images."""
    root = tmp_path / "photos"
    for seed, name in enumerate(["dog/b.PNG", "cat/a.png", "cat/deep/er/c.png", "top.png", "dog/a.png"]):
        save(root / name, seed)
    for name in ["LICENSE.txt", "a.json", "cat/labels.CSV", "Thumbs.db", ".DS_Store", "README"]:
        (root / name).write_text("text")
    save(root / ".hidden/x.png")
    save(root / "__MACOSX/._a.png")
    return root


def test_a_folder_is_sorted_labelled_and_tidied(folder, opened):
    store = opened(folder)
    assert store.names == ["cat/a.png", "cat/deep/er/c.png", "dog/a.png", "dog/b.PNG", "top.png"]
    assert store.class_names == ["cat", "dog"]
    assert store.labels.tolist() == [0, 0, 1, 1, -1]
    assert store.labels.dtype == np.int64
    assert store.skipped == []
    for row, seed in enumerate([1, 2, 4, 0, 3]):
        np.testing.assert_array_equal(store.images[row], np.asarray(picture(seed)).transpose(2, 0, 1))


def test_names_are_sorted_by_bytes(tmp_path, opened):
    names = [
        "B.png",
        "a.png",
        "a/z.png",
        "a-b.png",
        "é.png",
        "10.png",
        "9.png",
        "line\nbreak.png",
        "日本.png",
    ]
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, seed)
    store = opened(tmp_path / "in")
    assert store.names == sorted(names, key=lambda name: name.encode())
    assert "\n" not in store.describe()


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_not_utf8(tmp_path, opened):
    save(tmp_path / "in" / "a.png")
    os.rename(tmp_path / "in/a.png", os.fsencode(tmp_path) + b"/in/\xff.png")
    (tmp_path / "in" / "bad\udcfe.png").write_bytes(b"")
    for _ in range(2):
        store = opened(tmp_path / "in")
        assert store.names == ["\udcff.png"]
        store.describe().encode()


def zipped(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, prefix + file.relative_to(folder).as_posix())


def tarred(folder, path, mode):
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.add(file, file.relative_to(folder).as_posix(), recursive=False)


@pytest.mark.parametrize("suffix", [".zip", ".ZIP", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"])
def test_archives_give_the_store_of_the_folder(folder, opened, tmp_path, suffix):
    (folder / "bad.png").write_bytes(b"no")
    path = tmp_path / f"packed{suffix}"
    if suffix.lower() == ".zip":
        zipped(folder, path)
    else:
        tarred(folder, path, {".tar": "w", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"}.get(suffix, "w:gz"))
    expected, store = opened(folder), opened(path)
    np.testing.assert_array_equal(store.images, expected.images)
    assert store.labels.tolist() == expected.labels.tolist()
    for name in ("names", "hashes", "class_names", "skipped"):
        assert getattr(store, name) == getattr(expected, name)


def test_an_archive_may_wrap_everything_in_one_folder(folder, opened, tmp_path):
    zipped(folder, tmp_path / "packed.zip", prefix="photos/")
    store = opened(tmp_path / "packed.zip")
    assert store.class_names == ["cat", "dog"]
    assert store.names[0] == "photos/cat/a.png"


def test_members_that_escape_are_only_members(folder, opened, tmp_path):
    members = ["../../out.png", "/abs/olute.png", "in.png"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in members:
            member = zipfile.ZipInfo("x")
            member.filename = name
            archive.writestr(member, (folder / "top.png").read_bytes())
            info = tar.gettarinfo(folder / "top.png")
            info.name = name
            with open(folder / "top.png", "rb") as file:
                tar.addfile(info, file)
    before = set(tmp_path.parent.iterdir())
    for path in ("a.zip", "a.tar"):
        store = opened(tmp_path / path)
        assert store.names == sorted(members)
        assert store.num_duplicates == 2
    assert set(tmp_path.parent.iterdir()) == before
    assert not Path("/abs").exists()


def test_links_in_a_tar_are_not_followed(folder, opened, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "top.png", "top.png")
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "top.png"
        tar.addfile(info)
    store = opened(tmp_path / "a.tar")
    assert store.names == ["top.png"]
    assert [bad.name for bad in store.skipped] == ["link.png"]


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (PIXELS, PIXELS.transpose(0, 3, 1, 2)),
        (PIXELS.transpose(0, 3, 1, 2), PIXELS.transpose(0, 3, 1, 2)),
        (PIXELS[..., 0], np.repeat(PIXELS[..., 0][:, None], 3, axis=1)),
        (PIXELS[..., :1], np.repeat(PIXELS[..., 0][:, None], 3, axis=1)),
    ],
    ids=["NHWC", "NCHW", "NHW", "NHW1"],
)
def test_arrays_of_every_layout(array, expected, opened, tmp_path):
    np.save(tmp_path / "a.npy", array)
    store = opened(tmp_path / "a.npy", IntakeOptions(image_size=(8, 6)))
    np.testing.assert_array_equal(store.images, expected)
    assert store.class_names == []


def test_arrays_give_the_pictures_of_a_folder(opened, tmp_path):
    for index, pixels in enumerate(PIXELS):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{index}.png")
    np.save(tmp_path / "a.npy", PIXELS)
    assert opened(tmp_path / "in").hashes == opened(tmp_path / "a.npy").hashes


@pytest.mark.parametrize("key", ["images", "arr_0", "anything"])
def test_npz_with_labels(key, opened, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **{key: PIXELS}, labels=np.array([2, 0, -1, 2, 0], dtype=np.int8))
    store = opened(tmp_path / "a.npz")
    assert store.labels.tolist() == [2, 0, -1, 2, 0]
    assert store.labels.dtype == np.int64
    assert store.class_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS.astype(np.float32)}, "float32.*allowed are uint8"),
        ({"images": PIXELS[:, :3, :, :]}, "could be"),
        ({"images": PIXELS[..., :2]}, "no axis for 1, 3 or 4"),
        ({"images": PIXELS[0]}, "one picture or many"),
        ({"images": PIXELS[0, 0]}, "allowed are uint8"),
        ({"images": PIXELS[:0]}, "no usable image"),
        ({"a": PIXELS, "b": PIXELS}, "name the array of images 'images'"),
        ({"images": np.array([None], dtype=object)}, "cannot read"),
        ({"images": PIXELS, "labels": np.zeros(4, dtype=int)}, "one per image"),
        ({"images": PIXELS, "labels": np.zeros(5)}, "one per image"),
        ({"images": PIXELS, "labels": np.full(5, -2)}, "-2 to -2"),
        ({"images": PIXELS, "labels": np.full(5, 1), "class_names": np.array(["a"])}, "one per class"),
    ],
)
def test_arrays_that_cannot_be_used(arrays, message, opened, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.npz")


def truncated(path):
    save(path, size=(40, 40))
    path.write_bytes(path.read_bytes()[:2000])


BAD = {
    "truncated.png": (truncated, "truncated"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "empty file"),
    "text.png": (lambda path: path.write_text("I am text"), "not an image that Pillow can read"),
    "no-suffix": (lambda path: path.write_text("?"), "not an image that Pillow can read"),
    "photo.heic": (lambda path: path.write_bytes(b"\0\0\0 ftypheic"), "not an image that Pillow can read"),
    "drawing.eps": (lambda path: picture(0).save(path), "not an image that Pillow can read"),
    "bomb.png": (lambda path: save(path, size=(50, 50)), "50×50 pixels: more than 2,000"),
    "big-bomb.png": (lambda path: save(path, size=(90, 90)), "exceeds limit"),
    "dangling.png": (lambda path: path.symlink_to("nowhere.png"), "a link to nothing"),
    "itself.png": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "loop": (lambda path: path.symlink_to(".", target_is_directory=True), "a loop"),
    "pipe.png": (os.mkfifo, "not a regular file"),
}


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_bad_files_are_named_and_skipped(folder, opened, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    good = opened(folder)
    for name, (make, _) in BAD.items():
        make(folder / "cat" / name)
    store = opened(folder)
    assert store.names == good.names
    assert store.hashes == good.hashes
    np.testing.assert_array_equal(store.images, good.images)
    assert [bad.name for bad in store.skipped] == sorted(f"cat/{name}" for name in BAD)
    for bad in store.skipped:
        assert BAD[bad.name.removeprefix("cat/")][1] in bad.reason, bad
    assert "12 skipped" in store.describe()
    assert "cat/big-bomb.png: " in store.describe()


def test_an_unreadable_file_is_skipped(folder, opened, monkeypatch):
    def refusing(path, *args):
        if str(path).endswith("top.png"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *args)

    monkeypatch.setattr("nelbo.data.folder.open", refusing, raising=False)
    assert [str(bad) for bad in opened(folder).skipped] == ["top.png: Permission denied"]


def test_a_huge_file_is_not_read(folder, opened, monkeypatch, tmp_path):
    zipped(folder, tmp_path / "a.zip")
    tarred(folder, tmp_path / "a.tar", "w")
    save(folder / "large.png", size=(40, 40))
    monkeypatch.setattr("nelbo.data.sources.MAX_FILE_BYTES", 2000)
    assert [bad.name for bad in opened(folder).skipped] == ["large.png"]
    monkeypatch.setattr("nelbo.data.sources.MAX_FILE_BYTES", 20)
    for path in ("a.zip", "a.tar"):
        with pytest.raises(DataError, match=r"5 files could not be used.*too large for one image"):
            opened(tmp_path / path)


@pytest.mark.parametrize("names", [["a/1.png", "a/2.png"], ["1.png", "a/2.png"], ["1.png", "2.png"]])
def test_fewer_than_two_folders_are_no_classes(names, opened, tmp_path):
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, seed)
    store = opened(tmp_path / "in")
    assert store.class_names == []
    assert store.labels.tolist() == [-1, -1]


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_links_to_images_and_folders_are_followed(folder, opened, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "all").symlink_to(folder)
    (tmp_path / "links" / "one.png").symlink_to(folder / "top.png")
    assert len(opened(tmp_path / "links")) == 6


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing/folder", "there is no 'missing/folder'.*allowed are a folder"),
        ("", "allowed are a folder"),
        ("hf:cifar10", "not supported yet"),
        ("builtin:cats", "builtin:emoji"),
    ],
)
def test_no_such_source(source, message, opened):
    with pytest.raises(DataError, match=message):
        opened(source)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.npy", "a.npz", "a.png", "a.rar"])
def test_files_of_no_use(name, opened, tmp_path):
    (tmp_path / name).write_bytes(b"nonsense" * 100)
    with pytest.raises(DataError, match=r"cannot read|no known kind"):
        opened(tmp_path / name)


def test_a_truncated_tar_is_an_error(folder, opened, tmp_path):
    tarred(folder, tmp_path / "a.tar.gz", "w:gz")
    (tmp_path / "a.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:-400])
    with pytest.raises(DataError, match="damaged, incomplete"):
        opened(tmp_path / "a.tar.gz")


def test_nothing_good_says_what_was_looked_at(opened, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"it holds no image files.*Point it at PNG"):
        opened(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("text")
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 files could not be used \(a.png: empty file.*1 other files"):
        opened(tmp_path / "in")
    assert not list((tmp_path / "cache" / "stores").glob("*"))


def test_the_builtin_set(opened):
    store = opened("builtin:emoji", IntakeOptions(image_size=(16, 16)))
    assert store.images.shape == (1892, 3, 16, 16)
    assert len(store.class_names) == 9
    assert store.skipped == []
    assert np.bincount(store.labels).tolist() == [85, 159, 261, 131, 264, 381, 169, 224, 218]
