"""Has anything become slower? The ratios of now beside those on record (benchmarks/ratios.json).

    python -m benchmarks check [--record]

Ratios, not times: each is of two things measured in turn in one run. One that is more than 15 % below its record
fails the check; a peer that is not installed is passed over, and named.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

RECORD = Path(__file__).with_name("ratios.json")
NAMES = ("training", "steps", "sampling", "startup")
ALLOWED = 0.85


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks check", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what is measured as the new record")
    args = parser.parse_args(arguments)
    recorded: dict[str, float] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found: dict[str, float] = {}
    for name in NAMES:
        for what, ratio in import_module(f"benchmarks.{name}").ratios().items():
            found[what] = round(ratio, 2)
            before = recorded.get(what)
            verdict = "new" if before is None else "slower" if ratio < ALLOWED * before else "ok"
            print(
                f"{verdict:<7} {what}: {ratio:.2f}" + ("" if before is None else f", {before:.2f} on record"),
                flush=True,
            )
    if args.record:
        RECORD.write_text(json.dumps(recorded | found, indent=2) + "\n")
    elif slower := [what for what, ratio in found.items() if ratio < ALLOWED * recorded.get(what, 0.0)]:
        sys.exit(f"slower than on record: {'; '.join(slower)}")
