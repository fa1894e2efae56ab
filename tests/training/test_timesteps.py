from collections import defaultdict, deque

import pytest
import torch
from torch.testing import assert_close

from nelbo import NoiseSchedule, ReverseProcess, variational
from nelbo.config import Config, ConfigError, check
from nelbo.objectives import stratified_uniforms, uniform_timesteps
from nelbo.training.settings import TrainingConfig
from nelbo.training.timesteps import LossHistory, draw_timesteps

SIZES = torch.tensor([90.0, 1.0, 20.0, 0.0, 3.0, 6.0])
T = len(SIZES)


@pytest.fixture
def history():
    """Full: ten losses about SIZES[t − 1] at each t."""
    history = LossHistory(T)
    for _ in range(10):
        history.add(torch.arange(1, T + 1), SIZES * (0.5 + torch.rand(T)))
    return history


def spread(num):
    """The midpoints of so many equal parts of [0, 1): what uniform numbers do on average."""
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


def test_the_history_is_the_last_ten_losses_of_each_t():
    history, kept = LossHistory(5), defaultdict(lambda: deque(maxlen=10))
    for _ in range(12):  # 24 images a batch: some t come more than ten times in one
        t, losses = torch.randint(1, 6, (24,)), torch.rand(24)
        history.add(t, losses)
        for at, loss in zip(t.tolist(), losses.tolist()):
            kept[at].append(loss)
    assert history.counts.sum() == 12 * 24
    for at in range(1, 6):
        assert sorted(history.losses[at - 1].tolist()) == sorted(kept[at])
    root = torch.tensor([(sum(x * x for x in kept[at]) / 10) ** 0.5 for at in range(1, 6)]).double()
    assert_close(history.probabilities(), 0.999 * root / root.sum() + 0.001 / 5, rtol=1e-6, atol=0)


def test_every_t_can_be_drawn(history):
    probabilities = history.probabilities()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    assert float(probabilities[3]) == pytest.approx(0.001 / T, rel=1e-9)


def test_it_is_uniform_until_every_t_has_ten_losses():
    u, history = stratified_uniforms(0.123, torch.arange(50), 50), LossHistory(3)
    uniform = draw_timesteps(u, 3, None)
    assert torch.equal(uniform[0], uniform_timesteps(u, 3))
    assert torch.equal(uniform[1], torch.ones(50).double())
    history.add(
        torch.tensor([1] * 30 + [2] * 10 + [3] * 9), torch.cat([torch.ones(30), torch.full((19,), 9.0)])
    )
    for mine, expected in zip(draw_timesteps(u, 3, history), uniform):
        assert torch.equal(mine, expected)
    history.add(torch.tensor([3]), torch.tensor([9.0]))
    assert not torch.equal(draw_timesteps(u, 3, history)[0], uniform[0])


def test_t_is_drawn_with_its_probability_by_the_inverse_of_the_cumulative_distribution(history):
    num = 100_000
    t, weights = draw_timesteps(spread(num), T, history)
    assert (t.diff() >= 0).all()  # so a stratified batch covers the range of p
    shares = torch.bincount(t, minlength=T + 1)[1:] / num
    assert_close(shares.double(), history.probabilities(), rtol=0, atol=1.1 / num)
    assert_close(weights, 1 / (T * history.probabilities()[t - 1]))


@pytest.mark.parametrize("num_timesteps", [2, 3, 7, 100, 1000])
def test_both_ends_of_the_numbers_are_both_ends_of_t(num_timesteps):
    history = LossHistory(num_timesteps)
    for _ in range(10):
        history.add(torch.arange(1, num_timesteps + 1), torch.rand(num_timesteps))
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert draw_timesteps(ends, num_timesteps, history)[0].tolist() == [1, num_timesteps]


def test_equal_losses_draw_as_uniform_does():
    """A number on the border of two t included: it belongs to the upper one."""
    history = LossHistory(4)
    history.add(torch.arange(1, 5).repeat(10), torch.ones(40))
    u = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.7, 0.75, 0.9], dtype=torch.float64)
    t, weights = draw_timesteps(u, 4, history)
    assert torch.equal(t, uniform_timesteps(u, 4))
    assert_close(weights, torch.ones(7).double())


def test_the_expected_gradient_is_that_of_uniform_t(history, tiny_network, images):
    network = tiny_network()
    reverse = ReverseProcess(network, NoiseSchedule.cosine(T))
    x_0, eps = images[:1, :, :2, :2], torch.randn(T, 3, 2, 2, dtype=torch.float64)

    def gradient(t, weights):
        network.zero_grad()
        (weights * variational(reverse, x_0.expand(len(t), -1, -1, -1), eps[t - 1], t)).mean().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    uniform = gradient(torch.arange(1, T + 1), torch.ones(T))
    t, weights = draw_timesteps(spread(30_000), T, history)
    assert_close(gradient(t, weights), uniform, rtol=0, atol=0.01 * float(uniform.abs().max()))
    unweighted = gradient(t, torch.ones(len(t)))
    assert (unweighted - uniform).abs().max() > 0.1 * uniform.abs().max()


def test_uneven_losses_are_estimated_with_less_noise(history):
    """Where the losses at a t are all alike, each weighted loss is about the mean over t."""
    even = LossHistory(T)
    for _ in range(10):
        even.add(torch.arange(1, T + 1), SIZES)
    t, weights = draw_timesteps(spread(1000), T, even)
    assert_close(weights * SIZES[t - 1], SIZES.mean().double().expand(1000), rtol=0.02, atol=0)


def test_what_a_checkpoint_keeps_comes_back(history):
    other = LossHistory(T)
    other.load({name: tensor.clone() for name, tensor in history.tensors().items()})
    more = torch.tensor([2, 2, 5]), torch.tensor([7.0, 8.0, 9.0])
    for each in (history, other):
        each.add(*more)
    u = torch.rand(100, dtype=torch.float64)
    for mine, expected in zip(draw_timesteps(u, T, other), draw_timesteps(u, T, history)):
        assert torch.equal(mine, expected)
    with pytest.raises(ValueError, match="history of losses has 6 steps, this run has 7"):
        LossHistory(7).load(history.tensors())


@pytest.mark.parametrize(
    ("objective", "fits"), [("simple", False), ("hybrid", False), ("weighted", True), ("variational", True)]
)
def test_only_the_bound_and_its_weighted_form_are_drawn_by_the_loss(objective, fits):
    config = Config(training=TrainingConfig(objective=objective, timesteps="loss-second-moment"))
    if fits:
        check(config)
    else:
        message = (
            f"not for --objective {objective}; choose --objective variational or weighted, or --timesteps"
        )
        with pytest.raises(ConfigError, match=message):
            check(config)
    check(Config(training=TrainingConfig(objective=objective)))


@pytest.mark.parametrize("shift", [0.5, 2.0, 3.0])
def test_a_shift_draws_noisier_steps_by_the_density_that_it_says(shift):
    """P(t/T ≤ x) is the inverse of the shift, x/(s + (1 − s) x): density 1/s at 0 and s at 1."""
    uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    t, weights = draw_timesteps(uniforms, 1000, None, shift)
    assert (weights == 1).all()
    x = torch.arange(1, 1001, dtype=torch.float64) / 1000
    below = torch.bincount(t, minlength=1001)[1:].cumsum(0).double() / 100_000
    assert_close(below, x / (shift + (1 - shift) * x), rtol=0, atol=2e-5)
    assert int(t.min()) == 1
    assert int(t.max()) == 1000


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ({"objective": "simple"}, True),
        ({"objective": "weighted"}, False),
        ({"objective": "variational"}, False),
        ({"objective": "variational", "timesteps": "loss-second-moment"}, False),
    ],
)
def test_a_shift_weights_the_simple_loss_and_never_the_bound(settings, fits):
    config = Config(training=TrainingConfig(timestep_shift=2.0, **settings))
    if fits:
        check(config)
    else:
        with pytest.raises(ConfigError, match="--timestep-shift 2 weights the simple part of a loss"):
            check(config)
