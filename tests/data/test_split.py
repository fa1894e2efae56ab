"""Laws of the held-out split."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import hash_number, split_by_threshold, threshold_for


def hashes_of(contents):
    return [hashlib.sha256(str(content).encode()).hexdigest() for content in contents]


sets = st.lists(st.integers(0, 60), max_size=40).map(hashes_of)
fractions = st.floats(0.01, 0.99)


def held_out(hashes, threshold):
    return {hashes[i] for i in split_by_threshold(hashes, threshold).held_out}


def test_numbers_are_the_leading_bits():
    assert hash_number("0" * 64) == 0
    assert hash_number("8" + "0" * 63) == 0.5
    assert hash_number("f" * 64) == 1 - 2**-52


@given(sets, st.floats(0, 1))
def test_the_split_is_a_partition(hashes, threshold):
    split = split_by_threshold(hashes, threshold)
    assert split.train.dtype == split.held_out.dtype == np.int64
    assert sorted([*split.train, *split.held_out]) == list(range(len(hashes)))


@given(sets, sets, st.floats(0, 1))
def test_adding_files_moves_no_image(hashes, added, threshold):
    before, after = held_out(hashes, threshold), held_out(added + hashes, threshold)
    assert before == after & set(hashes)


@given(sets, fractions, st.integers(1, 50))
def test_duplicates_never_straddle(hashes, fraction, at_most):
    split = split_by_threshold(hashes, threshold_for(hashes, fraction, at_most))
    assert not {hashes[i] for i in split.train} & {hashes[i] for i in split.held_out}


@given(sets, fractions, st.integers(1, 50))
def test_both_sides_have_an_image_and_limits_hold(hashes, fraction, at_most):
    threshold = threshold_for(hashes, fraction, at_most)
    split = split_by_threshold(hashes, threshold)
    if len(set(hashes)) < 2:
        assert len(split.held_out) == 0
        return
    assert len(split.held_out) >= 1
    assert len(split.train) >= 1
    if len(held_out(hashes, threshold)) > 1:
        assert len(split.held_out) <= at_most
        assert threshold <= fraction
    assert json.loads(json.dumps(threshold)) == threshold


@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=40, unique=True).map(hashes_of), st.integers(1, 50)
)
def test_at_most_is_reached_when_it_binds(hashes, at_most):
    num_held_out = len(split_by_threshold(hashes, threshold_for(hashes, 0.999999, at_most)).held_out)
    assert num_held_out == min(at_most, len(hashes) - 1)


def test_a_fraction_that_binds_is_the_threshold():
    hashes = hashes_of(range(5000))
    assert threshold_for(hashes, 0.1, 1000) == 0.1
    share = len(split_by_threshold(hashes, 0.1).held_out) / 5000
    assert share == pytest.approx(0.1, abs=4 * (0.09 / 5000) ** 0.5)


def test_the_default_keeps_a_thousand():
    hashes = hashes_of(range(20_000))
    assert len(split_by_threshold(hashes, threshold_for(hashes)).held_out) == 1000


def test_copies_count_towards_at_most():
    hashes = sorted(hashes_of(range(10)))
    assert len(split_by_threshold(hashes * 3, threshold_for(hashes * 3, 0.99, 8)).held_out) == 6
    assert len(split_by_threshold(hashes * 3, threshold_for(hashes * 3, 0.99, 2)).held_out) == 3


@pytest.mark.parametrize(
    ("fraction", "at_most"), [(0.0, 5), (1.0, 5), (-0.1, 5), (0.1, 0), (float("nan"), 5)]
)
def test_limits_are_checked(fraction, at_most):
    with pytest.raises(ValueError, match="must"):
        threshold_for(hashes_of(range(5)), fraction, at_most)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan")])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(ValueError, match="threshold must lie"):
        split_by_threshold(hashes_of(range(5)), threshold)
