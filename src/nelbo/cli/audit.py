"""The audit of ``nelbo evaluate``: everything it measures, as the one record that is shown, written and plotted."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nelbo.cli.classes import labels_for
from nelbo.cli.subject import ANALYTIC, HELD_OUT, OWN, Images, Subject, chosen_path, chosen_variance
from nelbo.data import unit_to_levels
from nelbo.evaluation.codecs import codec_bits_per_dim
from nelbo.evaluation.floor import Floor, floor_on
from nelbo.evaluation.likelihood import (
    PILOT_IMAGES,
    PILOT_SLOTS,
    Likelihood,
    estimate_likelihood,
    estimate_variants,
    paired,
    pilot_plan,
)
from nelbo.evaluation.neighbours import memorisation
from nelbo.evaluation.plan import Plan
from nelbo.evaluation.profile import ErrorCounter, ErrorProfile
from nelbo.evaluation.record import record, without_nan
from nelbo.evaluation.sweep import OnBatch
from nelbo.reference import ReferenceDecoder
from nelbo.report.pictures import nearest_pairs, save_picture, scale_for
from nelbo.reverse import ReverseProcess
from nelbo.run import write_profile
from nelbo.samplers import sample
from nelbo.variance import FixedLarge

if TYPE_CHECKING:
    from nelbo.cli.evaluate import Evaluate

_SAMPLING_STEPS, _SAMPLES_AT_A_TIME = 50, 16


def audit(subject: Subject, images: Images, args: "Evaluate", out: Path, advance: OnBatch) -> dict[str, Any]:
    """Measure.

    Args:
        subject: the model.
        images: what it is judged on.
        args: the options.
        out: where neighbours.png goes.
        advance: told of network evaluations.

    Returns:
        What evaluation.json holds, for ``write_json``.
    """
    options: dict[str, Any] = {"seed": args.seed, "batch_size": args.batch_size, "on_batch": advance}
    enough = {**options, "evaluations_per_image": args.evaluations}
    plan: Plan | None = None
    train, profile = None, subject.profile
    is_whole = args.steps in (None, subject.reverse.schedule.num_timesteps)
    if images.train is not None and (
        (is_whole and not args.reference) or (profile is None and _wants_profile(args))
    ):
        train, profile, plan = _profiled(subject, images.train, args, options)
    reverse, timesteps = _as_asked(subject, args, profile)
    if not (is_whole and args.variance == OWN and not args.reference):
        train, plan = None, None
    if images.train is not None and train is None:
        train = estimate_likelihood(reverse, images.train, **enough)

    variants = {OWN: reverse}
    if profile is not None and args.variance != ANALYTIC and not args.reference:
        variants[ANALYTIC] = reverse.with_variance(profile.analytic())
    judged = estimate_variants(
        variants, images.judged, precision=args.precision, exact=args.exact, plan=plan, **enough
    )
    own = judged[OWN]
    return {
        "unit": "bits/dim",
        "split": images.name,
        **record(own),
        "others": {} if train is None else {"train": record(train)},
        "gap": None if train is None or images.name != HELD_OUT else _gap(own, train),
        "analytic": _gain(own, judged[ANALYTIC]) if ANALYTIC in judged else None,
        "floor": _floor(floor_on(reverse, images.judged), reverse),
        "memorisation": _memorisation(subject, images, args, out, advance),
        "codecs": {kind: codec_bits_per_dim(images.judged, kind) for kind in ("PNG", "WebP")},
        "model": {
            "path": str(subject.path),
            "summary": subject.summary,
            "num_timesteps": reverse.schedule.num_timesteps,
            "timesteps": timesteps,
            "variance": type(reverse.variance).__name__,
            "decoder": "tanh, floored (Ho et al.'s; no true likelihood)" if args.reference else "exact",
        },
        "reference": args.reference,
        "exact": args.exact,
        "precision": args.precision,
        "evaluations_per_image": args.evaluations,
        "seed": args.seed,
        "data": args.data,
        "checkpoint": subject.checkpoint,
    }


def planned_evaluations(subject: Subject, images: Images, args: "Evaluate") -> int | None:
    """About how many network evaluations an audit takes; None if it goes on until it is precise enough."""
    if args.precision is not None:
        return None
    num_timesteps = subject.reverse.schedule.num_timesteps
    num_steps = num_timesteps if args.steps is None else min(args.steps, num_timesteps)
    per_image = min(args.evaluations, 2 * num_steps)
    pilot = 2 * PILOT_IMAGES * PILOT_SLOTS
    judged = len(images.judged)
    again = min(judged, max(PILOT_IMAGES, judged // 10))
    total = (judged + again) * num_steps if args.exact else judged * per_image + pilot
    if images.train is not None:
        sweeps = 1 + (args.steps is not None and subject.profile is None)
        total += sweeps * (len(images.train) * per_image + pilot)
    if images.name == HELD_OUT:
        total += args.samples * min(_SAMPLING_STEPS, num_timesteps)
    return total


def _wants_profile(args: "Evaluate") -> bool:
    return args.path == "optimal" or args.variance == ANALYTIC or args.steps is not None


def _profiled(
    subject: Subject, train: np.ndarray, args: "Evaluate", options: dict[str, Any]
) -> tuple[Likelihood, ErrorProfile, Plan]:
    """One sweep of the whole model over training images: their bound, the error profile, the plan."""
    counter = ErrorCounter(subject.reverse.schedule.num_timesteps)
    num_slots = args.evaluations // (2 if args.evaluations >= 4 else 1)
    plan, _ = pilot_plan(subject.reverse, train, num_slots, **options)
    found = estimate_variants(
        {OWN: subject.reverse}, train, evaluations_per_image=args.evaluations, plan=plan, on_errors=counter.add,
        **options,
    )[OWN]  # fmt: skip
    profile = counter.profile(len(train))
    if subject.run is not None and subject.checkpoint is not None:
        write_profile(subject.run.path, subject.checkpoint, profile)
    return found, profile, plan


def _as_asked(
    subject: Subject, args: "Evaluate", profile: ErrorProfile | None
) -> tuple[ReverseProcess, list[int] | None]:
    """The model with the variance, the decoder and the steps of the options."""
    reverse = subject.reverse
    if args.reference:
        reverse = reverse.with_decoder(ReferenceDecoder)
        if isinstance(reverse.variance, FixedLarge):
            reverse = reverse.with_variance(FixedLarge(first_is_small=True))
    if args.variance != OWN:
        reverse = reverse.with_variance(chosen_variance(args.variance, subject, profile))
    if args.steps is None:
        return reverse, None
    timesteps = chosen_path(args.path, args.steps, reverse, subject, profile)
    return reverse.with_schedule(reverse.schedule.respaced(timesteps)), timesteps


def _gap(held_out: Likelihood, train: Likelihood) -> dict[str, Any]:
    gap = held_out.bits_per_dim - train.bits_per_dim
    error = math.hypot(held_out.standard_error, train.standard_error)
    if math.isnan(error):
        sentence = "With a single held-out image nobody can say whether that means anything."
    elif gap > 2 * error:
        sentence = "The model knows its training images better than new ones: it is memorising."
    else:
        sentence = (
            "No sign of memorisation: new images cost no more than those it was trained on, within the error."
        )
    return without_nan({"bits_per_dim": gap, "standard_error": error, "sentence": sentence})


def _gain(own: Likelihood, analytic: Likelihood) -> dict[str, Any]:
    """What analytic variances save, on the same draws."""
    gain, _ = paired(analytic, own)
    return without_nan(
        {
            **record(analytic),
            "saves": {
                "bits_per_dim": gain.value,
                "sampling_error": gain.sampling_error,
                "standard_error": gain.population_error,
            },
        }
    )


def _floor(floor: Floor, reverse: ReverseProcess) -> dict[str, Any]:
    names = ("bits_per_dim", "transitions", "reconstruction", "inner", "outer", "outer_share", "steps")
    sentence = (
        f"Whatever the network says, this schedule and {type(reverse.variance).__name__} cost"
        f" {floor.bits_per_dim:.3f} bits/dim: L_0 {floor.reconstruction:.3f} (a black or white value"
        f" {floor.outer:.3f}, any other {floor.inner:.3f}), the steps {floor.transitions:.3f}."
    )
    return {**{name: getattr(floor, name) for name in names}, "sentence": sentence}


def _memorisation(
    subject: Subject, images: Images, args: "Evaluate", out: Path, advance: OnBatch
) -> dict[str, Any] | None:
    """Draw samples and look them up among the training images."""
    if images.name != HELD_OUT or images.store is None or args.samples == 0:
        return None
    reverse, drawn = subject.reverse, []
    steps = min(_SAMPLING_STEPS, reverse.schedule.num_timesteps)
    for first in range(0, args.samples, _SAMPLES_AT_A_TIME):
        size = min(_SAMPLES_AT_A_TIME, args.samples - first)
        shape = (size, *subject.image_shape)
        label = labels_for(subject.class_names, first, size, reverse.schedule.betas.device)
        states = sample(reverse, shape, steps=steps, sampler="ddim", seed=args.seed, first=first, label=label)
        for state in states:
            if state.t:
                advance(size)
        drawn.append(unit_to_levels(state.x_t).cpu().numpy())
    samples = np.concatenate(drawn)
    found = memorisation(samples, images.judged, images.store, among=images.trained_on, flips=images.flip)
    save_picture(
        nearest_pairs(samples, images.store, found, scale=scale_for(subject.image_shape[1:])),
        out / "neighbours.png",
    )
    return without_nan(
        {
            "num_samples": args.samples,
            "num_suspicious": found.num_suspicious,
            "expected_by_chance": found.expected,
            "p_value": found.p_value,
            "sentence": found.sentence,
            "nearest_distances": found.nearest.distances.tolist(),
            "unit": "root mean squared difference, levels of 0..255",
        }
    )
