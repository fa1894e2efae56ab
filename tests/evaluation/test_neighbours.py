import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from nelbo.evaluation.neighbours import memorisation, nearest


def noise(num, shape=(3, 8, 8), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


def near(images, levels, seed=9):
    """The images, each value changed by at most so many levels."""
    change = np.random.default_rng(seed).integers(-levels, levels + 1, images.shape)
    return np.clip(images.astype(int) + change, 0, 255).astype(np.uint8)


def all_distances(queries, references):
    """(N, M) by the definition."""
    differences = queries[:, None].astype(float) - references[None].astype(float)
    return np.sqrt((differences**2).mean(axis=(2, 3, 4)))


def ratios_of(queries, references, k=50):
    ordered = np.sort(all_distances(queries, references), axis=1)[:, :k]
    return ordered[:, 0] / ordered.mean(axis=1)


def traced(call):
    """What a call returns, and the most memory that it held, in bytes."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("batch_size", [None, 1, 7, 1000])
@pytest.mark.parametrize("shape", [(1, 5, 3), (3, 24, 20)])  # the second has more values than a block
def test_nearest_is_what_comparing_all_with_all_gives(batch_size, shape):
    queries, references = noise(11, shape), noise(40, shape, seed=1)
    distances = all_distances(queries, references)
    found = nearest(queries, references, batch_size=batch_size)
    np.testing.assert_array_equal(found.indices, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distances, distances.min(axis=1), rtol=1e-14)
    assert not found.mirrored.any()


def test_distances_are_exact_at_the_ends_of_the_range():
    """Bright images that differ in one level of one value: what cancellation would lose."""
    black, white = np.zeros((1, 3, 64, 64), np.uint8), np.full((1, 3, 64, 64), 255, np.uint8)
    almost = white.copy()
    almost[0, 2, 5, 6] = 254
    assert nearest(black, white).distances == [255.0]
    assert nearest(white, white).distances == [0.0]
    assert nearest(white, almost).distances == [12288**-0.5]
    assert nearest(white, np.concatenate([black, almost, white])).indices == [2]


def test_every_squared_distance_is_the_integer_it_should_be():
    """Values at the ends: sums of squares up to 2^30, where float32 would round."""
    ends = np.array([0, 1, 254, 255], dtype=np.uint8)
    queries, references = (ends[noise(5, (3, 64, 64), seed) % 4] for seed in (1, 2))
    for reference in references:
        expected = ((queries.astype(int) - reference.astype(int)) ** 2).sum(axis=(1, 2, 3))
        found = nearest(queries, reference[None]).distances
        np.testing.assert_array_equal(found, np.sqrt(expected / 12288))


@pytest.mark.parametrize("batch_size", [2, None])
def test_of_several_as_near_the_first_is_taken(batch_size):
    references = noise(6)
    references[5] = references[3] = references[1]
    assert nearest(references[5:], references, batch_size=batch_size).indices == [1]


def test_among_limits_the_references_and_keeps_their_places():
    references = noise(30)
    among = np.array([4, 9, 17, 29])
    found = nearest(references[[4, 5, 29]], references, among=among, batch_size=3)
    expected = all_distances(references[[4, 5, 29]], references[among])
    np.testing.assert_array_equal(found.indices, among[expected.argmin(axis=1)])
    np.testing.assert_allclose(found.distances, expected.min(axis=1), rtol=1e-14)


def test_mirror_images_count_if_asked_for():
    queries, references = noise(9, (3, 4, 6)), noise(25, (3, 4, 6), seed=1)
    references[3] = queries[2, :, :, ::-1]
    plain, mirrored = all_distances(queries, references), all_distances(queries, references[..., ::-1])
    found = nearest(queries, references, flips=True, batch_size=8)
    both = np.minimum(plain, mirrored)
    np.testing.assert_array_equal(found.indices, both.argmin(axis=1))
    np.testing.assert_allclose(found.distances, both.min(axis=1), rtol=1e-14)
    np.testing.assert_array_equal(found.mirrored, (mirrored < plain)[np.arange(9), found.indices])
    assert 0 < found.mirrored.sum() < 9
    assert found.distances[2] == 0
    assert nearest(queries, references).distances[2] > 30


def test_a_memory_mapped_file_is_read_in_batches(tmp_path):
    path, references = tmp_path / "images.npy", noise(3000, (3, 32, 32))
    np.save(path, references)
    mapped = np.load(path, mmap_mode="r")
    queries = near(references[[2999, 7]], 3)
    among = np.arange(1, 3000)
    found, peak = traced(lambda: nearest(queries, mapped, among=among, batch_size=64))
    assert found.indices.tolist() == [2999, 7]
    assert peak < 2e6  # 9.2 MB of levels, 37 MB as float32
    judged, peak = traced(lambda: memorisation(queries, mapped[:1], mapped, among=among))
    assert judged.nearest.indices.tolist() == [2999, 7]
    assert peak < 2e7


def test_ratios_are_to_the_mean_of_the_50_nearest():
    samples, held_out, train = noise(4, seed=1), noise(30, seed=2), noise(70, seed=3)
    found = memorisation(samples, held_out, train)
    np.testing.assert_allclose(found.ratios, ratios_of(samples, train), rtol=1e-12)
    np.testing.assert_allclose(found.held_out_ratios, ratios_of(held_out, train), rtol=1e-12)
    few = memorisation(samples, held_out, train[:9])
    np.testing.assert_allclose(few.ratios, ratios_of(samples, train[:9]), rtol=1e-12)


def test_planted_copies_are_found_and_new_images_are_not():
    train, held_out, samples = noise(120), noise(150, seed=1), noise(40, seed=2)
    places = [3, 8, 21, 39]
    samples[places] = near(train[[5, 50, 99, 119]], 12)
    found = memorisation(samples, held_out, train)
    assert np.flatnonzero(found.suspicious).tolist() == places
    assert found.nearest.indices[places].tolist() == [5, 50, 99, 119]
    assert found.num_suspicious == 4
    assert found.expected == pytest.approx(40 / 151)
    # The four smallest of all 190 are samples; twice, for the two counts.
    assert found.p_value == pytest.approx(2 * np.prod(np.arange(37, 41) / np.arange(187, 191)))
    assert found.sentence == (
        "4 of 40 samples are closer to a training picture than 99.3 % of new pictures are "
        "(0.3 would be chance): the model copies."
    )


def test_one_copy_is_marked_and_not_more_made_of_it():
    train, held_out, samples = noise(60), noise(99, seed=1), noise(30, seed=2)
    samples[7] = near(train[:1], 3)[0]
    found = memorisation(samples, held_out, train)
    assert np.flatnonzero(found.suspicious).tolist() == [7]
    assert found.sentence == (
        "1 of 30 samples is closer to a training picture than 99 % of new pictures are "
        "(0.3 would be chance): it may be chance; look at it."
    )


def test_without_copies_there_is_no_sign_of_any():
    samples = noise(10, seed=2) // 2 + 64  # nearer to all, to none in particular
    found = memorisation(samples, noise(99, seed=1), noise(60))
    assert not found.suspicious.any()
    assert found.p_value == 1
    assert found.sentence == (
        "No sample of 10 is closer to a training picture than 99 % of new pictures are "
        "(0.1 would be chance): no sign of copying."
    )


def test_flips_find_mirrored_copies():
    train, held_out, samples = noise(60), noise(99, seed=1), noise(10, seed=2)
    samples[:6] = near(train[20:26, :, :, ::-1], 5)
    assert memorisation(samples, held_out, train).num_suspicious == 0
    found = memorisation(samples, held_out, train, flips=True)
    assert np.flatnonzero(found.suspicious).tolist() == list(range(6))
    assert found.nearest.indices[:6].tolist() == list(range(20, 26))
    assert found.nearest.mirrored[:6].all()


@pytest.mark.parametrize("flips", [False, True])
def test_a_copy_of_an_image_that_is_there_a_hundred_times_is_found(flips):
    """As its 50 nearest are all that image, its ratio would be 1 if each of them counted."""
    train = noise(150)
    train[:100:2] = train[149]
    train[1:100:2] = train[149, :, :, ::-1] if flips else train[149]
    found = memorisation(near(train[[0]], 3), noise(99, seed=1), train, flips=flips)
    assert found.num_suspicious == 1
    assert found.nearest.indices == [0]
    assert found.ratios < 0.05
    once = memorisation(near(train[[0]], 3), noise(99, seed=1), train[[0, *range(100, 149)]], flips=flips)
    np.testing.assert_array_equal(found.ratios, once.ratios)


def test_a_sample_as_close_as_the_closest_new_image_is_not_suspicious():
    train, held_out = noise(60), noise(99, seed=1)
    held_out[3] = near(train[:1], 80)[0]
    found = memorisation(held_out[[3]], held_out, train)
    assert found.ratios == found.held_out_ratios.min() < 0.7
    assert found.num_suspicious == 0


def test_an_almost_empty_image_is_not_a_copy_because_it_is_near_to_everything():
    train, held_out = noise(60), noise(99, seed=1)
    grey = np.full((1, 3, 8, 8), 128, np.uint8)
    found = memorisation(grey, held_out, train)
    assert found.nearest.distances < nearest(held_out, train).distances.min() * 0.8
    assert found.num_suspicious == 0


def test_new_images_that_have_twins_in_the_training_data_do_not_hide_copies():
    """Three of the held-out images are all but in the training data: copies are marked, and weighed less."""
    train, held_out, samples = noise(120), noise(99, seed=1), noise(36, seed=2)
    held_out[:3] = near(train[:3], 1)
    samples[:12] = near(train[50:62], 10)
    found = memorisation(samples, held_out, train)
    assert np.flatnonzero(found.suspicious).tolist() == list(range(12))
    assert found.ratios[:12].min() > found.held_out_ratios[:3].max()
    assert found.expected == pytest.approx(36 * 4 / 100)
    table = [[12, 24], [3, 96]]
    assert found.p_value == pytest.approx(2 * scipy.stats.fisher_exact(table, alternative="greater").pvalue)
    assert "96 % of new pictures are (1.4 would be chance): the model copies." in found.sentence


def test_many_samples_that_are_rather_close_are_too_close_together():
    """None stands out from the closest new images, but too many come as close as the closest tenth."""
    train, held_out, samples = noise(120), noise(99, seed=1), noise(30, seed=2)
    held_out[:10] = np.concatenate([near(train[:9], 40), near(train[[9]], 120)])
    samples[:20] = near(train[50:70], 90)
    found = memorisation(samples, held_out, train)
    assert np.flatnonzero(found.suspicious).tolist() == list(range(20))
    assert found.expected == pytest.approx(30 * 10 / 100)
    assert found.p_value < 1e-6
    assert "than 90 % of new pictures are (3.0 would be chance): the model keeps too close" in found.sentence


def test_the_p_value_is_that_of_every_order_of_new_images():
    """Samples and held-out images in all orders that are as likely, against the count of those as extreme."""
    num, num_new = 4, 6
    train = noise(60)
    strengths = np.linspace(40, 120, num + num_new).astype(int)  # the later, the farther
    images = np.concatenate([near(train[[i]], s) for i, s in enumerate(strengths)])
    order = np.argsort(ratios_of(images, train))
    assert order.tolist() == list(range(num + num_new))
    counts, chances = [], []
    for places in itertools.combinations(range(num + num_new), num):
        others = [i for i in range(num + num_new) if i not in places]
        found = memorisation(images[list(places)], images[others], train)
        assert found.num_suspicious == sum(i < others[0] for i in places)
        assert found.expected == pytest.approx(num / (num_new + 1))
        counts.append(found.num_suspicious)
        chances.append(found.p_value)
    assert np.mean(counts) == pytest.approx(found.expected)
    for count, chance in zip(counts, chances):
        assert chance == pytest.approx(min(1, 2 * np.mean(np.array(counts) >= count)))


def test_alarms_are_as_rare_as_it_says():
    """Samples that are new images, a fifth of all new images with a twin: 200 draws of 30 and 110.

    The mean count, about 0.27, has a standard error of 0.045; the share of p < 0.05 has one of 0.015.
    """
    train, rng = noise(60, (1, 3, 4)), np.random.default_rng(0)
    pool = noise(4000, (1, 3, 4), seed=1)
    pool[::5] = near(train[rng.integers(0, 60, 800)], 30)
    counts, expected, chances = [], [], []
    for _ in range(200):
        drawn = pool[rng.choice(4000, 140, replace=False)]
        found = memorisation(drawn[:30], drawn[30:], train)
        counts.append(found.num_suspicious)
        expected.append(found.expected)
        chances.append(found.p_value)
    assert np.mean(counts) == pytest.approx(np.mean(expected), abs=0.14)
    assert np.mean(np.array(chances) < 0.05) <= 0.08


@pytest.mark.parametrize(
    ("num_new", "words"), [(1, "only 1 picture was held out"), (19, "only 19 pictures were held")]
)
def test_few_held_out_images_give_no_verdict(num_new, words):
    train = noise(60)
    found = memorisation(near(train[:30], 3), noise(num_new, seed=1), train)
    assert found.num_suspicious == 30
    assert found.expected == pytest.approx(30 / (num_new + 1))
    assert words in found.sentence
    assert found.sentence.endswith("and with fewer than 20 that says little.")
    assert "copies" in memorisation(near(train[:30], 3), noise(20, seed=1), train).sentence


def test_without_held_out_images_it_cannot_be_judged():
    train = noise(60)
    found = memorisation(near(train[:3], 3), noise(0), train)
    assert found.p_value == 1
    assert found.held_out_ratios.shape == (0,)
    assert found.sentence == (
        "No picture was held out to show how close a new one comes: copying cannot be judged."
    )


def test_a_single_training_image_leaves_nothing_to_compare_with():
    train = noise(1)
    found = memorisation(np.concatenate([train, noise(1, seed=1)]), noise(0), train)
    assert found.ratios.tolist() == [0, 1]


def test_wrong_images_are_refused():
    good = noise(2)
    with pytest.raises(ValueError, match=r"uint8 \(N, C, H, W\), got float32"):
        nearest(good.astype(np.float32), good)
    with pytest.raises(ValueError, match=r"got uint8 \(3, 8, 8\)"):
        nearest(good, good[0])
    with pytest.raises(ValueError, match=r"\(3, 8, 8\) cannot be compared with images of shape \(1, 8, 8\)"):
        nearest(good, good[:, :1])
    with pytest.raises(ValueError, match="no image to compare with"):
        nearest(good, good[:0])
    with pytest.raises(ValueError, match="batch size is 0"):
        nearest(good, good, batch_size=0)
    with pytest.raises(ValueError, match="cannot be compared"):
        memorisation(good, good[:, :1], good)
    with pytest.raises(ValueError, match="no sample to judge"):
        memorisation(good[:0], good, good)
