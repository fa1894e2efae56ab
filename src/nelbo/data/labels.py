"""Classes from a table beside the images: CSV with a header, or JSON-lines, as data sets on the Hub have them.

file_name,label                 {"file_name": "cats/1.png", "label": "cat"}
cats/1.png,cat
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from nelbo.data.errors import DataError, listed, printable
from nelbo.data.sources import path_key
from nelbo.data.store import Store

_NAMES = ("file_name", "filename", "file", "image", "name", "path")
_LABELS = ("label", "class", "category")


def labelled(store: Store, table: str) -> Store:
    """A store whose classes are those of a table. Images that it does not name have none.

    Args:
        store: the images.
        table: the path of a .csv or .jsonl file; names as in the source, relative to it.

    Raises:
        DataError: if the table cannot be read, has no such columns, names one image twice with different classes,
            none of the images, or fewer than two classes.
    """
    found: dict[str, str] = {}
    for line, name, label in _rows(Path(table)):
        if found.setdefault(name, label) != label:
            raise DataError(
                f"{table}, line {line}: {printable(name)} has the class {label!r}, and {found[name]!r} above"
            )
    of_image = [found.get(name) for name in store.names]
    class_names = sorted({label for label in of_image if label is not None}, key=path_key)
    if not class_names:
        raise DataError(
            f"{table} names none of the images: it has {listed([printable(name) for name in found], 2)}, the images"
            f" are {listed([printable(name) for name in store.names], 2)}"
        )
    if len(class_names) < 2:
        raise DataError(
            f"{table} has one class alone, {class_names[0]!r}; give two or more, or leave --labels out"
        )
    index = {name: i for i, name in enumerate(class_names)}
    labels = np.array([-1 if label is None else index[label] for label in of_image], dtype=np.int64)
    return replace(store, labels=labels, class_names=class_names)


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Line, file name and class of every row."""
    suffix = table.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise DataError(f"{table} is no table of labels: give a .csv with a header, or a .jsonl")
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            rows = enumerate(csv.DictReader(stream), 2) if suffix == ".csv" else _objects(table, stream)
            for line, row in rows:
                name, label = (_field(row, keys, table, line) for keys in (_NAMES, _LABELS))
                yield line, name.removeprefix("./"), label
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from error


def _objects(table: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, object]]]:
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(f"{table}, line {line}: no JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{table}, line {line}: give an object with file_name and label")
        yield line, row


def _field(row: dict[str, object], keys: tuple[str, ...], table: Path, line: int) -> str:
    for key in keys:
        value = row.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    columns = listed([str(key) for key in row], 6)
    raise DataError(f"{table}, line {line}: no {keys[0]} (or {', '.join(keys[1:])}) among {columns}")
