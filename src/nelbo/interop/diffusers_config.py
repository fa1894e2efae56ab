"""One of diffusers' JSON files, read as diffusers reads it: what it leaves out has diffusers' default."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: if the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object: it is not one of diffusers' configurations")
    return values


class ConfigFile:
    """A component's configuration.

    Args:
        path: the file.
        values: what it holds.
        defaults: the keys that are understood, with the values that diffusers gives them when they are left out.
        ignored: other keys that say nothing about the model.

    Raises:
        ValueError: if it has a key that is not known, with a value.
    """

    def __init__(
        self,
        path: Path,
        values: Mapping[str, Any],
        defaults: Mapping[str, Any],
        ignored: Collection[str] = (),
    ) -> None:
        self.path = path
        self._values = {**defaults, **values}
        for key, value in values.items():
            if not key.startswith("_") and key not in defaults and key not in ignored and value is not None:
                raise ValueError(
                    f"{path}: {key}={json.dumps(value)} is not a key that nelbo knows; remove it from the file if "
                    "it does not change the model"
                )

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def unsupported(self, key: str, supported: str) -> ValueError:
        """The error that says what a key may be."""
        return ValueError(
            f"{self.path}: {key}={json.dumps(self[key])} is not supported; nelbo reads {supported}"
        )

    def choice(self, key: str, *allowed: Any) -> Any:
        """The value of a key that may have only these values."""
        value = self[key]
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            raise self.unsupported(key, " or ".join(map(json.dumps, allowed)))
        return value

    def whole(self, key: str) -> int:
        """The value of a key that counts something, at least 1."""
        if not _is_whole(self[key]):
            raise self.unsupported(key, "a whole number of at least 1")
        return int(self[key])

    def wholes(self, key: str) -> list[int]:
        """The value of a key that lists counts."""
        values = self[key]
        if not isinstance(values, list | tuple) or not values or not all(map(_is_whole, values)):
            raise self.unsupported(key, "a list of whole numbers of at least 1")
        return list(values)

    def number(self, key: str) -> float | int:
        """The value of a key that is a number."""
        if not _is_number(self[key]):
            raise self.unsupported(key, "a number")
        value: float | int = self[key]
        return value

    def numbers(self, key: str) -> list[float | int]:
        """The value of a key that lists numbers."""
        values = self[key]
        if not isinstance(values, list | tuple) or not values or not all(map(_is_number, values)):
            raise self.unsupported(key, "a list of numbers")
        return list(values)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)
