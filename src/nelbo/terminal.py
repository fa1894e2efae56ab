"""What is printed for a person."""

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Print lines as they are: a path stays in one piece, and a bracket in it is no markup."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
