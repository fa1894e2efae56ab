import pytest
from hypothesis import given
from hypothesis import strategies as st

from nelbo.paths import PATHS


@given(st.integers(1, 1200), st.data(), st.sampled_from(sorted(PATHS)))
def test_a_path_increases_from_1_to_T(num_timesteps, data, name):
    num_steps = data.draw(st.integers(1, num_timesteps))
    path = PATHS[name](num_timesteps, num_steps)
    assert len(path) == num_steps
    assert all(a < b for a, b in zip(path, path[1:]))
    assert path[-1] == num_timesteps
    assert path[0] == (1 if num_steps > 1 else num_timesteps)


def test_quadratic_is_denser_near_the_data():
    path = PATHS["quadratic"](1000, 20)
    assert path[1] - path[0] < path[-1] - path[-2]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; choose 1..1000"):
        PATHS["even"](1000, steps)
