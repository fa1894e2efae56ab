"""The machine's own limits: matrix products, 3×3 convolutions and copies, in float32 and bfloat16.

    python -m benchmarks ceilings [--preset quick]

With the convolutions of a preset's network one by one: what its training step could reach at most.
"""

import argparse
import collections
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from nelbo.build import build
from nelbo.presets import PRESETS
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.precision import bfloat16_pays

CPU = torch.device("cpu")
Shape = tuple[int, int, int, int, int, int]
"""In and out channels, side of the kernel, stride, height and width of the input."""


def median_seconds(work: Callable[[], object], rounds: int = 7) -> float:
    """Of so many calls, after two that are not counted."""
    times = []
    for _ in range(rounds + 2):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[2:])


def convolution_flops(shape: Shape, batch: int) -> float:
    """Forward and backward."""
    ins, outs, side, stride, height, width = shape
    return 3 * 2.0 * batch * ins * outs * side**2 * (height // stride) * (width // stride)


def convolution_seconds(shape: Shape, batch: int, dtype: torch.dtype, rounds: int = 7) -> float:
    """Forward and backward of one convolution, channels last."""
    ins, outs, side, stride, height, width = shape
    layer = nn.Conv2d(ins, outs, side, stride, padding=side // 2).to(memory_format=torch.channels_last)
    x = (
        torch.randn(batch, ins, height, width, dtype=dtype)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    slope = torch.randn(batch, outs, height // stride, width // stride, dtype=dtype)
    slope = slope.to(memory_format=torch.channels_last)

    def work() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = layer(x)
        out.backward(slope)

    return median_seconds(work, rounds)


def convolutions_of(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[Shape, int]:
    """How often each shape of convolution is in a network that takes (x_t, clock)."""
    found: collections.Counter[Shape] = collections.Counter()

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        assert isinstance(layer, nn.Conv2d)
        found[
            (
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size[0],
                layer.stride[0],
                *inputs[0].shape[2:],
            )
        ] += 1

    hooks = [
        layer.register_forward_hook(note)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1
    ]
    with torch.no_grad():
        network(torch.zeros(1, *image_shape), torch.zeros(1, dtype=torch.int64))
    for hook in hooks:
        hook.remove()
    return dict(found)


def convolution_ceiling(
    network: nn.Module, image_shape: tuple[int, int, int], batch: int, dtype: torch.dtype, rounds: int = 7
) -> float:
    """FLOP/s of a network's convolutions, forward and backward, each alone: what no step of it can pass."""
    shapes = convolutions_of(network, image_shape)
    flops = sum(number * convolution_flops(shape, batch) for shape, number in shapes.items())
    taken = sum(number * convolution_seconds(shape, batch, dtype, rounds) for shape, number in shapes.items())
    return flops / taken


def matrix_product(size: int, dtype: torch.dtype) -> float:
    """FLOP/s."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b)


def copies(megabytes: int, *, fresh: bool) -> float:
    """Bytes per second, read and written, into a fresh block or into one that is there."""
    block = torch.zeros(megabytes * 2**18)
    target = torch.empty_like(block)
    seconds = median_seconds(block.clone if fresh else lambda: target.copy_(block))
    return 2 * block.nbytes / seconds


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ceilings")
    parser.add_argument("--preset", default="quick", choices=sorted(PRESETS))
    parser.add_argument("--batch", type=int, default=None, help="of the convolutions; the preset's own")
    args = parser.parse_args(arguments)
    config = PRESETS[args.preset].config
    batch = args.batch or config.training.batch_size
    print(
        f"{torch.get_num_threads()} threads; bfloat16 in hardware: {'yes' if bfloat16_pays(CPU) else 'no'}\n"
    )
    print(f"copy of 256 MB, into a fresh block: {copies(256, fresh=True) / 1e9:.1f} GB/s")
    print(f"copy of 256 MB, into an old block:  {copies(256, fresh=False) / 1e9:.1f} GB/s")
    keep_freed_memory()
    copies(256, fresh=True)
    print(f"fresh again, freed memory kept:     {copies(256, fresh=True) / 1e9:.1f} GB/s\n")
    shapes = [
        (width, width, 3, 1, side, side)
        for width, side in ((64, 32), (128, 32), (128, 16), (256, 16), (256, 8))
    ]
    network = build(config).network
    assert isinstance(network, nn.Module)
    print("| GFLOP/s | float32 | bfloat16 |\n|---|---|---|")
    rows: list[tuple[str, Callable[[torch.dtype], float]]] = [
        *((f"matrix product, {n}", lambda d, n=n: matrix_product(n, d)) for n in (512, 2048)),
        *(
            (
                f"3×3 convolution, {s[0]} channels on {s[4]}×{s[5]}, forward and backward, batch {batch}",
                lambda d, s=s: convolution_flops(s, batch) / convolution_seconds(s, batch, d),
            )
            for s in shapes
        ),
        (
            f"the convolutions of the preset {args.preset}, each alone",
            lambda d: convolution_ceiling(network, (config.data.channels, *config.data.image_size), batch, d),
        ),
    ]  # fmt: skip
    for name, rate in rows:
        print(f"| {name} | {rate(torch.float32) / 1e9:.0f} | {rate(torch.bfloat16) / 1e9:.0f} |", flush=True)
