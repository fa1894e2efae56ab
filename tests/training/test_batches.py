import threading

import numpy as np
import pytest
import torch

from nelbo.training.batches import Batches

CPU = torch.device("cpu")


def batches(pictures, indices=None, flip=False, seed=3, **classes):
    indices = np.arange(1, 14) if indices is None else indices
    return Batches(pictures, indices, seed=seed, flip=flip, device=CPU, **classes)


def test_an_epoch_visits_every_training_image_once_and_no_other(pictures):
    data = batches(pictures)
    places = data.places(0, 13 * 3).reshape(3, 13)
    assert all(sorted(epoch) == list(range(13)) for epoch in places.tolist())
    assert len({tuple(epoch) for epoch in places.tolist()}) == 3
    assert set(data.indices[places.flatten()]) == set(range(1, 14))


def test_an_example_is_the_same_in_any_batch_and_after_anything_else(pictures):
    whole = batches(pictures, flip=True).batch(0, 40).x_0
    other = batches(pictures, flip=True)
    other.batch(500, 3)
    parts = [other.batch(first, size).x_0 for first, size in ((0, 7), (7, 1), (8, 32))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(batches(pictures, seed=4).batch(0, 40).x_0, whole)


def test_examples_are_the_images_on_the_grid(pictures):
    data = batches(pictures)
    batch = data.batch(5, 4)
    assert batch.numbers.tolist() == [5, 6, 7, 8]
    levels = pictures[data.indices[data.places(5, 4)]]
    torch.testing.assert_close(batch.x_0, torch.from_numpy(levels).float() / 127.5 - 1, rtol=0, atol=1e-7)


def test_half_of_the_examples_are_mirrored_if_wanted(pictures):
    plain = batches(pictures).batch(0, 400).x_0
    flipped = batches(pictures, flip=True).batch(0, 400).x_0
    asymmetric = ~torch.isclose(plain, plain.flip(-1)).flatten(1).all(1)
    mirrored = torch.isclose(flipped, plain.flip(-1)).flatten(1).all(1)
    same = torch.isclose(flipped, plain).flatten(1).all(1)
    assert (mirrored | same).all()
    share = float(mirrored[asymmetric].float().mean())
    assert 0.4 < share < 0.6


def test_no_image_is_an_error(pictures):
    with pytest.raises(ValueError, match="no image to train on"):
        batches(pictures, indices=np.arange(0))


def test_a_tenth_of_the_classes_is_hidden_and_always_the_same_tenth(pictures):
    labels = np.arange(16) % 3
    data = batches(pictures, labels=labels, label_dropout=0.1)
    shown, true = data.batch(0, 3000).label, labels[data.indices[data.places(0, 3000)]]
    hidden = shown == -1
    assert (shown == torch.from_numpy(true))[~hidden].all()
    assert 0.08 < hidden.float().mean() < 0.12
    parts = [data.batch(first, size).label for first, size in ((2000, 1000), (0, 7), (7, 1993))]
    assert torch.equal(torch.cat([*parts[1:], parts[0]]), shown)
    assert batches(pictures).batch(0, 4).label is None


def test_the_next_batch_is_read_ahead_and_only_that_one_is_used(pictures):
    """Whether the store is asked before or after, the examples are the same; what was not foreseen is read anew."""
    read = []

    class Watched(np.ndarray):
        def take(self, *given, **options):
            read.append(threading.current_thread().name)
            return super().take(*given, **options)

    data = batches(pictures.view(Watched))
    expected = batches(pictures)
    for first, size in ((0, 4), (4, 4), (8, 4), (20, 4), (24, 3)):
        assert torch.equal(data.batch(first, size).x_0, expected.batch(first, size).x_0)
    here = [name for name in read if not name.startswith("nelbo-batches")]
    assert len(here) == 3  # the first, the one after a jump, and the one of another size


def test_a_store_that_cannot_be_read_is_an_error_where_the_batch_is_asked_for(pictures):
    class Damaged(np.ndarray):
        def take(self, *given, **options):
            raise OSError("the disk is gone")

    data = batches(pictures)
    data.batch(0, 4)
    data._images = pictures.view(Damaged)
    data.batch(4, 4)  # was read before
    with pytest.raises(OSError, match="the disk is gone"):
        data.batch(8, 4)
