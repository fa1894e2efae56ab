"""Which images example number n of a run is made of: a pure function of the seed and n."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo import randomness
from nelbo.data import levels_to_unit
from nelbo.randomness import Purpose

_GPU_SHARE = 0.5


@dataclass(frozen=True)
class Batch:
    """Some examples, on the device.

    Attributes:
        x_0: images on [−1, 1].
        numbers: int64, the numbers of the examples that they are.
        label: int64, their classes, −1 for none or where it is dropped; None where no classes are learned.
    """

    x_0: Float[Tensor, "B C H W"]
    numbers: Int[Tensor, "B"]
    label: Int[Tensor, "B"] | None


class Batches:
    """Training examples, drawn without replacement within an epoch. While one batch is learned the next is read.

    Args:
        images: uint8 (N, C, H, W), the whole store, memory-mapped or not.
        indices: the images to train on.
        seed: the run's seed.
        flip: whether to mirror half of the examples.
        device: where the examples are wanted. On a GPU the training images live there too, if they fit.
        labels: int64 (N,) class of every image of the store, −1 for none; None where no classes are learned.
        label_dropout: the share of the examples that are shown without their class.
    """

    def __init__(
        self,
        images: np.ndarray,
        indices: np.ndarray,
        *,
        seed: int,
        flip: bool,
        device: torch.device,
        labels: np.ndarray | None = None,
        label_dropout: float = 0.0,
    ) -> None:
        if len(indices) == 0:
            raise ValueError("there is no image to train on; give more images, or hold fewer out")
        self._images = images
        self.indices = indices
        self.seed = seed
        self._flip = flip
        self._labels = labels
        self._label_dropout = label_dropout
        self.device = device
        self.shape: tuple[int, int, int] = images.shape[1:]
        self._on_gpu = _on_gpu(images, indices, device)
        self._epochs: dict[int, np.ndarray] = {}
        self._reader = ThreadPoolExecutor(1, "nelbo-batches")
        self._ahead: tuple[tuple[int, int], Future[tuple[np.ndarray, np.ndarray | None]]] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def places(self, first: int, size: int) -> np.ndarray:
        """Which training image, 0..N−1, each of the examples ``first`` … ``first + size − 1`` is."""
        examples = np.arange(first, first + size)
        epochs, within = np.divmod(examples, len(self.indices))
        orders = {int(e): self._order(int(e)) for e in np.unique(epochs)}
        self._epochs = orders
        return np.array([orders[e][i] for e, i in zip(epochs.tolist(), within.tolist())])

    def batch(self, first: int, size: int) -> Batch:
        """The examples ``first`` … ``first + size − 1``, the same whatever was asked for before."""
        places, read = self._read_ahead(first, size)
        numbers = torch.arange(first, first + size, device=self.device)
        if read is None:
            assert self._on_gpu is not None
            levels = self._on_gpu[torch.from_numpy(places).to(self.device)]
        else:
            levels = torch.from_numpy(read).to(self.device)
        x_0 = levels_to_unit(levels)
        if self._flip:
            mirrored = randomness.uniform(self.seed, Purpose.FLIP, numbers) < 0.5
            x_0 = torch.where(mirrored[:, None, None, None], x_0.flip(-1), x_0)
        return Batch(x_0, numbers, self._label(places, numbers))

    def _label(self, places: np.ndarray, numbers: Tensor) -> Tensor | None:
        if self._labels is None:
            return None
        labels = torch.from_numpy(self._labels[self.indices[places]]).to(self.device)
        dropped = randomness.uniform(self.seed, Purpose.LABEL_DROPOUT, numbers) < self._label_dropout
        return torch.where(dropped, -1, labels)

    def _read_ahead(self, first: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """What ``_read`` gives, and the reader begins on the batch after it."""
        ahead, self._ahead = self._ahead, None
        found = ahead[1].result() if ahead and ahead[0] == (first, size) else self._read(first, size)
        following = (first + size, size)
        self._ahead = following, self._reader.submit(self._read, *following)
        return found

    def _read(self, first: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Places, and the pixels there unless the device has them; a memory-mapped store waits on its disk."""
        places = self.places(first, size)
        if self._on_gpu is not None:
            return places, None
        # (np.take lets go of the interpreter while it waits on the disk; indexing would not.)
        return places, np.take(self._images, self.indices[places], axis=0)

    def _order(self, epoch: int) -> np.ndarray:
        known = self._epochs.get(epoch)
        return randomness.permutation(self.seed, epoch, len(self.indices)).numpy() if known is None else known


def _on_gpu(images: np.ndarray, indices: np.ndarray, device: torch.device) -> Tensor | None:
    if device.type != "cuda":
        return None
    num_bytes = len(indices) * int(np.prod(images.shape[1:]))
    free, _ = torch.cuda.mem_get_info(device)
    return torch.from_numpy(images[indices]).to(device) if num_bytes < _GPU_SHARE * free else None
