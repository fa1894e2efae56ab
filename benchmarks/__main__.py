"""Benchmarks, one module each: ``python -m benchmarks [NAME ...]``; without a name, those that take minutes."""

import sys
from importlib import import_module

ALL = {
    "steps": "images/s of a training step and of a network evaluation, and the fraction of the convolution ceiling",
    "recipe": "held-out bits/dim of variants of the quick preset after the same training time (hours)",
    "training": "images/s of a full training step, beside peers of the same size as they ship (minutes)",
    "ceilings": "the machine itself: products, convolutions, copies, and a preset's convolutions (a minute)",
    "time_to_quality": "held-out bits/dim that peers reach in 20 minutes and nelbo in 4 (an hour)",
    "sampling": "pictures per second of a network and of a whole sampler, beside diffusers with the same weights",
    "levers": "what each lever of a training step gains, one at a time (minutes)",
    "loading": "milliseconds of a batch from the store, warm and cold (seconds)",
    "startup": "seconds to help, to an import, to the first step",
    "check": "the ratios of training, steps, sampling and startup, beside those on record (some ten minutes)",
    "samplers": "kernel distance and images per second of every sampler, path and number of steps (half an hour)",
    "short_paths": "bits/dim of a run with K steps, by variance and path (minutes)",
    "estimators": "variance of the bound's estimators for the same network evaluations (seconds to half an hour)",
}
QUICK = ("ceilings", "steps", "loading", "startup", "training", "sampling")


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__, *(f"\n  {name:<11} {summary}" for name, summary in ALL.items()), sep="")
        return 0
    if arguments and arguments[0] in ALL:
        import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
        return 0
    if arguments:
        print(f"unknown benchmark {arguments[0]!r}; choose one of {', '.join(ALL)}", file=sys.stderr)
        return 2
    for name in QUICK:
        import_module(f"benchmarks.{name}").main([])
    return 0


sys.exit(main(sys.argv[1:]))
