"""How many bits do short paths cost, with which variance, and which steps should they take?

    python -m benchmarks short_paths runs/demo runs/learned

For every run, on its held-out images: K steps × variance × path, in the shape of Analytic-DPM's table. Variances
and optimal paths come from one sweep over training images; the cells are measured on held-out ones. Rows for
benchmarks/RESULTS.md go to standard output.
"""

import argparse
from pathlib import Path

import torch

from nelbo.cli.subject import images_of, open_subject
from nelbo.evaluation.likelihood import estimate_variants
from nelbo.evaluation.profile import ErrorCounter, ErrorProfile
from nelbo.paths import PATHS
from nelbo.reverse import ReverseProcess
from nelbo.variance import AbstractVariance, FixedLarge, FixedSmall


def measured_profile(reverse: ReverseProcess, train: object, evaluations: int) -> ErrorProfile:
    counter = ErrorCounter(reverse.schedule.num_timesteps)
    estimate_variants({"": reverse}, train, evaluations_per_image=evaluations, on_errors=counter.add)
    return counter.profile(len(train))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks short_paths", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 25, 50, 100, 1000])
    parser.add_argument("--evaluations", type=int, default=24, help="network evaluations per image and cell")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)

    for run in args.runs:
        subject = open_subject(run, torch.device("cpu"))
        images = images_of(subject, None, 1000)
        reverse = subject.reverse
        profile = subject.profile or measured_profile(reverse, images.train, 48)
        variances: dict[str, AbstractVariance] = {
            "β": FixedLarge(), "β̃": FixedSmall(), "analytic": profile.analytic()
        }  # fmt: skip
        if reverse.variance.is_learned:
            variances["learned"] = reverse.variance
        models = {name: reverse.with_variance(variance) for name, variance in variances.items()}
        paths = {name: profile.paths(reverse.schedule, variance) for name, variance in variances.items()}
        print(f"\n{run}: T = {reverse.schedule.num_timesteps}, {len(images.judged)} held-out images\n")
        print("| variance | path | " + " | ".join(f"K = {steps}" for steps in args.steps) + " |")
        print("|---" * (2 + len(args.steps)) + "|", flush=True)
        rows: dict[tuple[str, str], list[str]] = {}
        for steps in args.steps:
            even = PATHS["even"](reverse.schedule, steps)
            schedule = reverse.schedule.respaced(even)
            together = {name: model.with_schedule(schedule) for name, model in models.items()}
            found = {("even", name): one for name, one in judge(together, images.judged, args).items()}
            for name, model in models.items():
                if steps < reverse.schedule.num_timesteps:
                    short = model.with_schedule(reverse.schedule.respaced(paths[name][steps]))
                    found["optimal", name] = judge({name: short}, images.judged, args)[name]
                else:
                    found["optimal", name] = found["even", name]
            for (path, name), one in found.items():
                cell = f"{one.bits_per_dim:.3f} ± {one.half_width:.3f}"
                rows.setdefault((name, path), []).append(cell)
        for (name, path), cells in sorted(rows.items(), key=lambda row: list(models).index(row[0][0])):
            print(f"| {name} | {path} | " + " | ".join(cells) + " |", flush=True)


def judge(models: dict[str, ReverseProcess], images: object, args: argparse.Namespace) -> dict[str, object]:
    return estimate_variants(models, images, evaluations_per_image=args.evaluations)
