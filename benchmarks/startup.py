"""How long until something happens: help, imports, the first step.

    python -m benchmarks startup

Each command in a process of its own, A B A B, medians.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "nelbo --help": ["-m", "nelbo", "--help"],
    "nelbo train --help": ["-m", "nelbo", "train", "--help"],
    "import nelbo": ["-c", "import nelbo; nelbo.UNet"],
    "import diffusers": ["-c", "from diffusers import UNet2DModel, DDPMScheduler, DDPMPipeline"],
    "nelbo train, one step": [
        "-m", "nelbo", "train", "builtin:emoji", "--max-steps", "1", "--sample-minutes", "0", "--out"
    ],
}  # fmt: skip


def medians(rounds: int) -> dict[str, float]:
    """Seconds, by command."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, command in COMMANDS.items():
                whole = [
                    sys.executable,
                    *command,
                    *([str(Path(folder) / str(number))] if "--out" in command else []),
                ]
                begun = time.perf_counter()
                subprocess.run(whole, check=True, capture_output=True)
                if number:
                    times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def ratios() -> dict[str, float]:
    """What `make bench-check` compares: how many times nelbo starts in the time of what it stands on."""
    found = medians(3)
    return {
        "import torch, over nelbo train --help": found["import torch"] / found["nelbo train --help"],
        "import torch, over import nelbo": found["import torch"] / found["import nelbo"],
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    print("| | seconds |\n|---|---|")
    for name, taken in medians(args.rounds).items():
        print(f"| {name} | {taken:.2f} |")
