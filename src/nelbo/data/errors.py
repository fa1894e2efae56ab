"""What goes wrong with data: one error for the whole source, one record for a single file."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """A source of images that cannot be used: what was given, what is allowed, what to do."""


@dataclass(frozen=True)
class Skipped:
    """One file that could not be used.

    Attributes:
        name: Path relative to the source, "/" between the parts.
        reason: Why, in words.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.name)}: {printable(self.reason)}"


def printable(name: str) -> str:
    """A file name as one line that any terminal can show: control and undecodable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def reason_of(error: BaseException) -> str:
    """The reason that an exception gives, without the paths that an OSError repeats."""
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def listed(items: list[str], at_most: int = 3) -> str:
    """The first few items in words: "a, b, c and 7 more"."""
    shown = ", ".join(items[:at_most])
    return shown if len(items) <= at_most else f"{shown} and {len(items) - at_most:,} more"
