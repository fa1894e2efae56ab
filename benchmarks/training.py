"""Images per second of one full training step, beside peers as they ship, at equal parameters and FLOPs.

    python -m benchmarks training

A step is noise, forward, backward, clipping, optimiser and average. For each peer, nelbo's own network is chosen
from a small family so that its parameters and FLOPs are the peer's within a tenth; it runs as `nelbo train` runs
it. All are timed in turn, A B A B, and medians are reported, with the fraction of the convolution ceiling measured
beside.
"""

import argparse
import itertools
import math
import statistics
import time

import torch
from benchmarks.peers import Contender, denoising_diffusion_pytorch_as_shipped, diffusers_as_shipped
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nelbo import NoiseSchedule, ReverseProcess, UNet, V, randomness, simple
from nelbo.objectives import stratified_uniforms, uniform_timesteps
from nelbo.randomness import Purpose
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.precision import autocast
from nelbo.training.settings import TrainingConfig
from nelbo.training.state import TrainingState

SHAPE = (3, 64, 64)
MULTIPLIERS = (
    (1, 2, 2, 4),
    (1, 2, 4, 4),
    (1, 2, 4, 8),
    (1, 2, 3, 4),
    (1, 2, 2, 2),
    (1, 1, 2, 2),
    (1, 2),
    (1, 2, 4),
)


def forward_flops(network: nn.Module) -> float:
    """Of one image."""
    x, clock = torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, clock)
    return float(counter.get_total_flops())


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def ours_like(peer: Contender, optimizer: str) -> Contender:
    """Our network of the peer's size, and our step."""
    wanted = (num_parameters(peer.network), forward_flops(peer.network))

    def distance(options: dict[str, object]) -> float:
        network = UNet(**options)  # type: ignore[arg-type]
        params = abs(math.log(num_parameters(network) / wanted[0]))
        if params > 0.2:
            return params + 1
        return max(params, abs(math.log(forward_flops(network) / wanted[1])))

    family = (
        {"base_width": width, "multipliers": multipliers, "blocks_per_level": blocks, "patch": 2, "groups": 8,
         "attention_levels": (len(multipliers) - 1,)}
        for width, multipliers, blocks in itertools.product(range(32, 129, 8), MULTIPLIERS, (1, 2, 3))
    )  # fmt: skip
    options = min(family, key=distance)
    reverse = ReverseProcess(UNet(**options), NoiseSchedule.cosine(), V())
    reverse.to(memory_format=torch.channels_last)
    settings = TrainingConfig(optimizer=optimizer)  # type: ignore[arg-type]
    state = TrainingState.fresh(reverse.network, settings)

    def step(x_0: Tensor) -> None:
        size = len(x_0)
        numbers = torch.arange(state.images, state.images + size)
        offset = randomness.uniform(0, Purpose.TIMESTEP, numbers[:1])[0]
        t = uniform_timesteps(stratified_uniforms(offset, torch.arange(size), size), 1000)
        eps = randomness.normal(0, Purpose.FORWARD_NOISE, numbers, SHAPE)
        with autocast(torch.device("cpu"), settings.precision):
            loss = simple(reverse, x_0, eps, t).mean()
        reverse.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(reverse.parameters(), 1.0)
        for one in state.optimizers:
            one.step()
        state.images += size
        state.ema.update(size, state.images)
        loss.item()

    return Contender(f"nelbo ({optimizer}), as large as {peer.name}: {options}", reverse.network, step)


def convolution_ceiling(rounds: int) -> float:
    """FLOP/s of 3×3 convolutions, forward and backward, in the arithmetic that training uses."""
    layer = nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(16, 128, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    times = []
    for _ in range(rounds + 2):
        begun = time.perf_counter()
        with autocast(torch.device("cpu"), "auto"):
            out = layer(x)
        out.backward(torch.ones_like(out))
        times.append(time.perf_counter() - begun)
    return 3 * 2 * 16 * 16 * 16 * 128 * 128 * 9 / statistics.median(times[2:])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks training", description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # of the whole process: the peers have it, too
    x_0 = torch.rand(args.batch, *SHAPE) * 2 - 1

    for make in (diffusers_as_shipped, denoising_diffusion_pytorch_as_shipped):
        peer = make()
        contenders = [peer, ours_like(peer, "adamw"), ours_like(peer, "muon")]
        times: dict[str, list[float]] = {c.name: [] for c in contenders}
        ceilings = []
        for number in range(args.rounds + 2):
            for contender in contenders:
                begun = time.perf_counter()
                contender.step(x_0)
                if number >= 2:
                    times[contender.name].append(time.perf_counter() - begun)
            ceilings.append(convolution_ceiling(5))
        ceiling = statistics.median(ceilings)
        print(
            f"\nconvolution ceiling: {ceiling / 1e9:.0f} GFLOP/s; {args.threads} threads, batch {args.batch}\n"
        )
        print(
            "| | parameters | GFLOP/image | images/s (spread) | GFLOP/s | of the ceiling | against the peer |"
        )
        print("|---|---|---|---|---|---|---|")
        base = statistics.median(times[peer.name])
        for contender in contenders:
            median, flops = statistics.median(times[contender.name]), 3 * forward_flops(contender.network)
            rate = args.batch / median
            low, high = (
                args.batch / bound for bound in (max(times[contender.name]), min(times[contender.name]))
            )
            print(
                f"| {contender.name} | {num_parameters(contender.network) / 1e6:.2f} M | {flops / 1e9:.2f} |"
                f" {rate:.1f} ({low:.1f}–{high:.1f}) | {rate * flops / 1e9:.0f} | {rate * flops / ceiling:.0%} |"
                f" {base / median:.2f} |",
                flush=True,
            )
