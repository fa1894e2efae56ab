import json

import numpy as np
import pytest
from PIL import Image

from nelbo.data import DataError, IntakeOptions, labelled, open_store

NAMES = ["a.png", "deep/b.png", "deep/ü.png"]


@pytest.fixture
def store(tmp_path):
    for index, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), 50 * index, dtype=np.uint8)).save(path)
    return open_store(
        str(tmp_path / "photos"), IntakeOptions((4, 4)), cache=tmp_path / "cache", progress=False
    )


def read(store, tmp_path, text, name="labels.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return labelled(store, str(tmp_path / name))


@pytest.mark.parametrize("header", ["file_name,label", "path,class", "\ufefffilename,other,category"])
def test_a_csv_gives_the_classes(store, tmp_path, header):
    between = ",x" if "other" in header else ""
    rows = [f"{name}{between},{label}" for name, label in zip(NAMES, ("dog", "cat", "dog"))]
    found = read(store, tmp_path, "\r\n".join([header, *rows, f"no-such-image.png{between},cow"]))
    assert found.class_names == ["cat", "dog"]
    assert found.labels.tolist() == [1, 0, 1]
    assert store.class_names == []


def test_json_lines_give_the_classes_and_an_image_without_a_row_has_none(store, tmp_path):
    rows = [{"file_name": "./deep/ü.png", "label": 3}, {"file_name": "a.png", "label": 11, "more": None}]
    found = read(store, tmp_path, "\n\n".join(map(json.dumps, rows)), "metadata.jsonl")
    assert found.class_names == ["11", "3"]
    assert found.labels.tolist() == [0, -1, 1]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "file_name,label\na.png,dog\na.png,cat",
            "l.csv",
            "line 3: a.png has the class 'cat', and 'dog' above",
        ),
        (
            "file_name,label\nx.png,dog",
            "l.csv",
            "names none of the images: it has x.png, the images are a.png",
        ),
        ("file_name,label\na.png,dog", "l.csv", "one class alone, 'dog'"),
        (
            "file_name,kind\na.png,dog",
            "l.csv",
            r"line 2: no label \(or class, category\) among file_name, kind",
        ),
        ("file_name,label\na.png,", "l.csv", "line 2: no label"),
        ("file_name,label\na.png", "l.csv", "line 2: no label"),
        ("", "l.csv", "names none of the images"),
        ('{"file_name": "a.png"', "l.jsonl", "line 1: no JSON"),
        ("[1]", "l.jsonl", "line 1: give an object"),
        ("a.png dog", "l.txt", "is no table of labels"),
    ],
)
def test_a_table_that_will_not_do_is_said(store, tmp_path, text, name, message):
    with pytest.raises(DataError, match=message):
        read(store, tmp_path, text, name)


def test_a_file_that_cannot_be_read_is_said(store, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read: .*No such file"):
        labelled(store, str(tmp_path / "nowhere.csv"))
    (tmp_path / "latin.csv").write_bytes("file_name,label\nü.png,dog".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv cannot be read"):
        labelled(store, str(tmp_path / "latin.csv"))
