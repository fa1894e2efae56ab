"""The command line. This module imports no torch, so that help is instant; a command imports what it needs."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from nelbo import __version__

COMMANDS = {
    "train": "train a model on images, or go on with a run that was interrupted",
    "sample": "draw images from a run",
    "edit": "change images of your own with a run: paint anew, redraw, clean, blend",
    "evaluate": "say how good a run is, in bits per dimension, with its error bars",
    "compare": "say which of two models is better, and how sure that is",
    "doctor": "say what is in the data, and what training on them will cost on this machine",
}

_HELP = f"""\
nelbo {__version__}: denoising diffusion on your own images, with a likelihood in bits per dimension

usage: nelbo COMMAND ... [--help]

commands:
{chr(10).join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())}

example:
  nelbo train photos/ --out runs/photos --max-minutes 10
  nelbo sample runs/photos --num 64
  nelbo evaluate runs/photos

`nelbo COMMAND --help` lists the options of a command with their defaults."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands behind ``nelbo``; sys.argv's if None.

    Returns:
        The exit status: 0, 2 for input that cannot be used, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(_HELP)
        return 0
    if given[0] in ("-V", "--version"):
        print(f"nelbo {__version__}")
        return 0
    if given[0] not in COMMANDS:
        return _refuse(
            f"unknown command {given[0]!r}; choose one of {', '.join(COMMANDS)}, or see nelbo --help"
        )
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return int(import_module(f"nelbo.cli.{given[0]}").main(given[1:]))
    except SystemExit as stop:  # the parser has shown the help (0), or what is wrong with an option (2)
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        return _refuse("interrupted", status=130)
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("NELBO_TRACEBACK"):
            raise
        return _refuse(" ".join(str(error).split()) or type(error).__name__)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"nelbo: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _refuse(message: str, status: int = 2) -> int:
    print(f"nelbo: {message}", file=sys.stderr)
    return status
