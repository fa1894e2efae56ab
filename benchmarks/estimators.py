"""Which estimator of the bound has the least variance for its network evaluations? docs/variance.md has the answer.

    python -m benchmarks estimators gaussian                   exact denoiser; seconds
    python -m benchmarks estimators untrained                  an untrained U-Net on the built-in images; minutes
    python -m benchmarks estimators trained --run runs/demo    a trained one on its held-out images; half an hour

Variances are within an image (x_0 fixed, the draws vary), averaged over images, in nats²; in brackets the standard
error of an image's bound, bits/dim. `--keep FILE` saves the trained network's terms along its paths, or reads them.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.path_terms import PathTerms, path_terms, round_variance, variances, within
from torch import Tensor

from nelbo import paths
from nelbo.bound import bound_term
from nelbo.build import build
from nelbo.data import IntakeOptions, levels_to_unit, open_store
from nelbo.evaluation.likelihood import estimate_likelihood, pilot_plan
from nelbo.evaluation.plan import Plan, geometric, strata
from nelbo.parameterization import X0
from nelbo.presets import PRESETS
from nelbo.reverse import ReverseProcess
from nelbo.run import intake_options, load, run_of
from nelbo.schedule import NoiseSchedule
from nelbo.tables import gather
from nelbo.units import bits_per_dim
from nelbo.variance import Analytic, FixedLarge

STEPS_SHOWN = (1, 2, 3, 5, 10, 30, 100, 300, 600, 800, 900, 950, 990, 1000)
PRECISION, EXTRA = 0.01, 100


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("\n| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def cell(variance: float, num_dims: int) -> str:
    return f"{figure(variance)} ({bits_per_dim(math.sqrt(max(variance, 0)), num_dims):.2g})"


def figure(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(max(abs(value), 1e-4))))
    return f"{value:,.{digits}f}" if value < 1e6 else f"{value:.2e}"


WHOLE = (
    "model", "T", "bound, bits/dim", "path", "KL, independent draws", "KL, along the path", "best w", "combination",
    "Var(path − KL)", "as derived",
)  # fmt: skip


def whole_row(name: str, terms: PathTerms, num_dims: int) -> list[object]:
    v, num_timesteps = variances(terms), terms.divergences.shape[2] - 1
    bound = bits_per_dim(float(terms.divergences.sum(dim=2).mean()), num_dims)
    derived = float(terms.spreads.sum(dim=2).mean())
    cells = [cell(value, num_dims) for value in (v.path, v.independent, v.along)]
    last = [cell(v.combined, num_dims), figure(v.difference), figure(derived)]
    return [name, num_timesteps, f"{bound:.3f}", *cells, f"{v.weight:.2f}", *last]


def gaussian_process(schedule: NoiseSchedule, s: float, *, exact_variance: bool) -> ReverseProcess:
    """The exact denoiser of N(0, s²) data."""
    alphas_bar, noise = schedule.alphas_bar, schedule.one_minus_alphas_bar
    gain = alphas_bar.sqrt() * s**2 / (alphas_bar * s**2 + noise)
    left = s**2 * noise / (alphas_bar * s**2 + noise)

    def network(x_t: Tensor, clock: Tensor) -> Tensor:
        return gather(gain, clock + 1, x_t) * x_t

    variance = Analytic(left, left) if exact_variance else FixedLarge()
    return ReverseProcess(network, schedule, X0(), variance, clip=False)


def gaussian(args: argparse.Namespace) -> None:
    """48 dimensions, N(0, 0.25²) on the 256-level grid: ±4 s."""
    num_dims, s, num_images, num_draws = 48, 0.25, 16, 256
    generator = torch.Generator().manual_seed(0)
    raw = s * torch.randn(num_images, 3, 4, 4, generator=generator, dtype=torch.float64)
    x_0 = levels_to_unit(((raw.clamp(-1, 1) + 1) * 127.5).round().long(), torch.float64)
    entropy = 0.5 * (x_0 / s).square() + 0.5 * math.log(2 * math.pi * s**2) - math.log(2 / 255)
    least = float(entropy.flatten(1).sum(dim=1).mean())
    rows = []
    for num_timesteps in (20, 200, 1000):
        for exact in (False, True):
            reverse = gaussian_process(NoiseSchedule.cosine(num_timesteps), s, exact_variance=exact)
            terms = path_terms(reverse, x_0.repeat_interleave(num_draws, dim=0), generator=generator)
            terms = terms.by_image(num_images)
            excess = 2 * (float(terms.log_ratios.sum(dim=2).mean()) - least)
            name = "exact σ²" if exact else "σ² = β"
            rows.append([*whole_row(name, terms, num_dims), figure(excess)])
    table([*WHOLE, "2 (bound + ln q(x_0))"], rows)


def draw_paths(reverse: ReverseProcess, images: np.ndarray, args: argparse.Namespace) -> PathTerms:
    """(N, M, T+1) terms of the run's images."""
    x_0 = levels_to_unit(torch.from_numpy(images[: args.images].copy()))
    found = path_terms(
        reverse, x_0.repeat_interleave(args.draws, dim=0), generator=torch.Generator().manual_seed(args.seed)
    )
    return found.by_image(len(x_0))


def respaced(reverse: ReverseProcess, num_steps: int) -> ReverseProcess:
    steps = paths.even(reverse.schedule.num_timesteps, num_steps)
    return reverse.with_schedule(reverse.schedule.respaced(steps))


def untrained(args: argparse.Namespace) -> None:
    images = open_store("builtin:emoji", IntakeOptions()).images
    images = images[:: max(1, len(images) // args.images)]
    reverse = build(PRESETS["quick"].config).eval()
    num_dims = images[0].size
    found = [draw_paths(respaced(reverse, k), images, args) for k in (50, 100)]
    table(WHOLE, [whole_row("untrained", terms, num_dims) for terms in found])


def trained(args: argparse.Namespace) -> None:
    run, reverse = run_of(args.run), load(args.run)
    store = open_store(run.config.source, intake_options(run.config.config.data))
    held_out = store.images[store.split(run.config.held_out_threshold).held_out]
    chosen = held_out[:: max(1, len(held_out) // args.images)]
    num_dims = held_out[0].size
    print(f"{run.checkpoint_name(args.run)}; {args.images} held-out images, {args.draws} paths from each")
    if args.keep is not None and args.keep.exists():
        kept = torch.load(args.keep)
        found = {steps: PathTerms(**terms) for steps, terms in kept.items()}
    else:
        processes = {50: respaced(reverse, 50), 100: respaced(reverse, 100), 1000: reverse}
        found = {steps: draw_paths(process, chosen, args) for steps, process in processes.items()}
    if args.keep is not None:
        torch.save({steps: vars(terms) for steps, terms in found.items()}, args.keep)
    table(WHOLE, [whole_row("trained", terms, num_dims) for terms in found.values()])
    single_terms(found[1000])
    rows = few_evaluations(reverse, held_out, found[1000]) + all_evaluations(found[1000], num_dims)
    table(("estimator", "evaluations", "variance", f"evaluations for ± {PRECISION:g} bits/dim"), rows)
    antithetic(reverse, chosen, args)


def single_terms(terms: PathTerms) -> None:
    """Rao and Blackwell at one t."""
    rows = []
    for t in STEPS_SHOWN:
        ratio, divergence = terms.log_ratios[:, :, t - 1], terms.divergences[:, :, t - 1]
        mean, least, most = float(divergence.mean()), float(within(divergence)), float(within(ratio))
        rows.append([t, *map(figure, (mean, least, most)), figure(2 * mean), f"{most / least:,.0f}"])
    table(("t", "mean KL, nats", "Var KL", "Var ln q/p", "2 KL", "ratio"), rows)


def budget_row(name: str, evaluations: int, variance: float, num_dims: int) -> list[object]:
    needed = evaluations * bits_per_dim(math.sqrt(variance), num_dims) ** 2 / PRECISION**2
    return [name, f"{evaluations:,}", cell(variance, num_dims), figure(needed)]


def few_evaluations(reverse: ReverseProcess, images: np.ndarray, terms: PathTerms) -> list[list[object]]:
    """Plans of a few steps: their variance, from the terms at every t, and what `nelbo evaluate` measures."""
    num_timesteps, num_dims = reverse.schedule.num_timesteps, images[0].size
    ones, rows = torch.ones(num_timesteps + 1, dtype=torch.float64), []
    plans: dict[str, Callable[[int], Plan]] = {
        "equal strata": lambda k: Plan(((1, 1), *strata(ones, k - 1)), ones),
        "geometric strata": lambda k: geometric(num_timesteps, k),
        "allocated": lambda k: pilot_plan(reverse, images, k)[0],
    }

    def of(plan: Plan) -> float:
        return float(round_variance(terms.divergences, plan).mean())

    once, first, rest = (Plan((slot,), ones) for slot in ((1, num_timesteps), (1, 1), (2, num_timesteps)))
    for k in (8, 24):
        found = {"t uniform over 1..T": of(once) / k}
        found["L_0, and t uniform over 2..T"] = of(first) + of(rest) / (k - 1)
        for name, plan in plans.items():
            found[f"{name}, one round of {k}"] = of(plan(k))
            found[f"{name}, two rounds of {k // 2}"] = of(plan(k // 2)) / 2
        likelihood = estimate_likelihood(reverse, images, evaluations_per_image=k)
        error = likelihood.total.sampling_error * math.sqrt(len(images)) * num_dims * math.log(2)
        found[f"`nelbo evaluate`, as measured on {len(images)} images"] = error**2
        rows += [budget_row(name, k, variance, num_dims) for name, variance in found.items()]
        between = float(likelihood.per_image.std())
        print(f"{k} evaluations each: {likelihood.bits_per_dim:.4f}, images differ by {between:.3f} bits/dim")
    return rows


def all_evaluations(terms: PathTerms, num_dims: int) -> list[list[object]]:
    """T evaluations and more."""
    whole, num_timesteps = variances(terms), terms.divergences.shape[2] - 1
    by_step, counts = within(terms.divergences[:, :, :num_timesteps]), torch.ones(num_timesteps)
    for _ in range(EXTRA):
        counts[(by_step / (counts * (counts + 1))).argmax()] += 1
    more = ", ".join(f"{t + 1} (×{int(counts[t])})" for t in counts.gt(1).nonzero()[:, 0])
    print(f"{EXTRA} more draws help most at t = {more}")
    found = {
        "path": whole.path,
        "path and KL along it, combined": whole.combined,
        "KL, every step once": whole.independent,
        f"KL, every step once and {EXTRA} draws more": float((by_step / counts).sum()),
        "KL, draws in proportion to each step's spread": float(by_step.sqrt().sum()) ** 2 / num_timesteps,
    }
    evaluations = [num_timesteps + EXTRA * ("more" in name) for name in found]
    return [budget_row(name, k, found[name], num_dims) for name, k in zip(found, evaluations)]


@torch.no_grad()
def antithetic(reverse: ReverseProcess, images: np.ndarray, args: argparse.Namespace) -> None:
    """Correlation of a term at ε with the same term at −ε: below 0, a pair is worth more than two draws."""
    generator = torch.Generator().manual_seed(args.seed)
    few = levels_to_unit(torch.from_numpy(images[:4].copy()))
    x_0 = few.repeat_interleave(args.pairs, dim=0)
    rows = []
    for t in STEPS_SHOWN:
        eps = torch.randn(x_0.shape, generator=generator)
        pairs = (
            bound_term(reverse, x_0, sign * eps, t).double().unflatten(0, (len(few), -1)) for sign in (1, -1)
        )
        a, b = (p - p.mean(dim=1, keepdim=True) for p in pairs)
        correlations = (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
        rows.append([t, f"{float(correlations.mean()):+.2f}", *(f"{float(c):+.2f}" for c in correlations)])
    print(f"correlation at ε and −ε; {args.pairs} pairs from each image: ± {args.pairs**-0.5:.2f} each")
    table(("t", "mean", *(f"image {i + 1}" for i in range(len(few)))), rows)


PARTS = {"gaussian": gaussian, "untrained": untrained, "trained": trained}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks estimators")
    parser.add_argument("parts", nargs="*", default=["gaussian"], help=", ".join(PARTS))
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--draws", type=int, default=16, help="paths from each image")
    parser.add_argument("--pairs", type=int, default=48, help="of ε and −ε, 4 images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="file for the trained network's terms")
    args = parser.parse_args(arguments)
    for part in args.parts:
        PARTS[part](args)
