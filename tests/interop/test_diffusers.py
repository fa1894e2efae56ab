"""A folder that diffusers writes is the same model here: diffusers itself, with random weights, is the oracle."""

import inspect
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from nelbo import X0, Epsilon, FixedLarge, FixedSmall, LearnedRange, V, bound_term
from nelbo.interop import diffusers_scheduler, diffusers_unet
from nelbo.interop.diffusers import is_diffusers, read_diffusers

WEIGHTS = "diffusion_pytorch_model.safetensors"


def noise(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_network(folder, theirs):
    model = read_diffusers(folder)
    ours = model.reverse.network
    x, clock = noise(3, *model.image_shape), torch.tensor([0, 17, 999])
    arguments = [] if model.num_classes is None else [torch.tensor([1, 0, model.num_classes - 1])]
    with torch.no_grad():
        expected = theirs(x.float(), clock, *arguments).sample
        torch.testing.assert_close(ours(x.float(), clock, *arguments), expected, rtol=0, atol=1e-5)
        expected = theirs.double()(x, clock, *arguments).sample
        torch.testing.assert_close(ours.double()(x, clock, *arguments), expected, rtol=0, atol=1e-12)
    theirs.float()
    assert expected.abs().max() > 0.1
    return model


HO = {
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
NETWORKS = {
    "as the published google/ddpm-*": {"widths": (8, 8, 16), "attention": (1,), **HO},
    "attention everywhere": {"attention": (0, 1), "attention_head_dim": 4, "layers_per_block": 2},
    "attention in the middle alone": {"attention": (), "attention_head_dim": 2},
    "no attention": {"attention": (), "add_attention": False},
    "widths that no level divides": {"widths": (12, 8, 20), "attention": (0, 2), "attention_head_dim": 4},
    "coarse groups": {"norm_num_groups": 1, "norm_eps": 1e-3, "attn_norm_num_groups": 1},
    "ones of each option": {"downsample_padding": 0, "freq_shift": 2, "dropout": 0.5, "act_fn": "swish"},
    "one level, not square": {"widths": (8,), "attention": (), "sample_size": (5, 7), "in_channels": 2,
                              "out_channels": 2, "time_embedding_dim": 32},
    "classes": {"num_class_embeds": 5, "sample_size": (4, 12)},
    "one channel": {"in_channels": 1, "out_channels": 1, "flip_sin_to_cos": False},
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_the_network_is_diffusers_own(case, unet, saved):
    theirs = unet(**NETWORKS[case])
    model = assert_same_network(saved(theirs), theirs)
    size = theirs.config.sample_size
    assert model.image_shape == (theirs.config.in_channels, *((size, size) if size == 8 else size))
    assert model.num_classes == theirs.config.num_class_embeds
    assert not any(module.training for module in model.reverse.modules())


def test_a_learned_variance(unet, saved):
    theirs = unet(out_channels=6)
    model = assert_same_network(saved(theirs, DDPMScheduler(variance_type="learned_range")), theirs)
    assert model.reverse.variance == LearnedRange()
    assert model.reverse.p_transition(noise(1, 3, 8, 8), 5).log_variance.shape == (1, 3, 8, 8)


def test_what_a_configuration_leaves_out_has_diffusers_default():
    """Every option of diffusers is known here, by the same default."""

    def options(component):
        parameters = inspect.signature(component.__init__).parameters
        return {name: one.default for name, one in parameters.items() if name != "self"}

    assert options(UNet2DModel) == diffusers_unet.DEFAULTS
    known, ignored = diffusers_scheduler.DEFAULTS, diffusers_scheduler.IGNORED
    assert known == {key: value for key, value in options(DDPMScheduler).items() if key not in ignored}
    assert options(DDIMScheduler).keys() <= {*known, *ignored}


def test_old_folders(unet, saved, edit, tmp_path):
    """As the published ones: no subfolders, old names of the attention's weights, few keys."""
    theirs = unet(widths=(8, 8, 16), attention=(0, 2), **HO)
    saved(theirs)
    state = load_file(tmp_path / "unet" / WEIGHTS)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        state = {key.replace(f".{new}.", f".{old}."): value for key, value in state.items()}
    assert "mid_block.attentions.0.query.weight" in state
    assert "up_blocks.0.attentions.1.proj_attn.bias" in state
    save_file(state, tmp_path / WEIGHTS)
    for folder, name in (("unet", "config.json"), ("scheduler", "scheduler_config.json")):
        (tmp_path / folder / name).rename(tmp_path / name)
        shutil.rmtree(tmp_path / folder)
    later = (
        "add_attention",
        "class_embed_type",
        "downsample_type",
        "dropout",
        "mid_block_type",
        "upsample_type",
    )
    edit(
        tmp_path / "config.json",
        down_block_types=["UNetResAttnDownBlock2D", "UNetResDownBlock2D", "AttnDownBlock2D"],
        **dict.fromkeys(later, ...),
    )
    edit(tmp_path / "scheduler_config.json", prediction_type=..., thresholding=..., tensor_format="pt")
    reread = DDPMPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False).unet.eval()
    assert_same_network(tmp_path, reread)
    assert_same_network(tmp_path, theirs)
    (tmp_path / "model_index.json").unlink()
    assert is_diffusers(tmp_path)
    assert_same_network(tmp_path, theirs)


def test_half_precision_is_read_as_float32(unet, saved):
    theirs = unet().half()
    folder = saved(theirs)
    assert load_file(folder / "unet" / WEIGHTS)["conv_in.weight"].dtype == torch.float16
    assert {parameter.dtype for parameter in read_diffusers(folder).reverse.parameters()} == {torch.float32}
    assert_same_network(folder, theirs.float())


def test_reading_draws_nothing(saved):
    folder = saved()
    before = torch.get_rng_state()
    read_diffusers(folder)
    assert torch.equal(torch.get_rng_state(), before)


SCHEDULERS = {
    "the default": (DDPMScheduler, {}, Epsilon(), FixedSmall(), True),
    "short": (DDPMScheduler, {"num_train_timesteps": 10, "beta_end": 0.3}, Epsilon(), FixedSmall(), True),
    "scaled linear": (
        DDPMScheduler,
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False,
         "variance_type": "fixed_large"},
        Epsilon(), FixedLarge(), False,
    ),
    "squared cosine": (
        DDPMScheduler,
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "num_train_timesteps": 50},
        V(), FixedSmall(), True,
    ),
    "trained betas": (
        DDPMScheduler,
        {"trained_betas": [0.1, 0.4, 0.02, 0.9], "num_train_timesteps": 4, "prediction_type": "sample",
         "variance_type": "fixed_small_log"},
        X0(), FixedSmall(), True,
    ),
    "learned": (DDPMScheduler, {"variance_type": "learned_range"}, Epsilon(), LearnedRange(), True),
    "DDIM": (DDIMScheduler, {"clip_sample": False, "beta_end": 0.01}, Epsilon(), FixedSmall(), False),
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEDULERS)
def test_the_schedule_is_diffusers_own(case, unet, saved):
    make, options, parameterization, variance, clip = SCHEDULERS[case]
    theirs = make(**options)
    reverse = read_diffusers(saved(learning(unet, variance), theirs)).reverse
    assert torch.equal(reverse.schedule.betas[1:], theirs.betas.double())
    torch.testing.assert_close(
        reverse.schedule.alphas_bar[1:].float(), theirs.alphas_cumprod, rtol=2e-6, atol=0
    )
    assert reverse.schedule.clock[-1] == theirs.config.num_train_timesteps - 1
    assert (reverse.parameterization, reverse.variance, reverse.clip) == (parameterization, variance, clip)


def learning(unet, variance):
    return unet(out_channels=6 if variance.is_learned else 3)


def test_fixed_large_log_is_fixed_large(saved):
    """Which in diffusers draws NaN: it takes the root of the logarithm."""
    folder = saved(scheduler=DDPMScheduler(variance_type="fixed_large_log"))
    assert read_diffusers(folder).reverse.variance == FixedLarge()


def test_ddim_draws_with_the_small_variance_whatever_is_left_of_another_scheduler(saved, edit):
    folder = saved(scheduler=DDIMScheduler())
    edit(folder / "scheduler" / "scheduler_config.json", variance_type="fixed_large")
    model = read_diffusers(folder)
    assert model.reverse.variance == FixedSmall()
    assert "DDIMScheduler, T=1000, linear betas, epsilon, fixed_small" in model.summary


def exactly(scheduler):
    """The scheduler with its table in float64, so that it can be compared beyond float32."""
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), dim=0)
    return scheduler


def their_step(scheduler, output, x_t, t):
    """Mean and standard deviation of the step x_t → x_{t−1} that diffusers draws, from two draws."""
    eps = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(0), dtype=x_t.dtype)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    first, second = (scheduler.step(output, t - 1, x_t, generator=one).prev_sample for one in generators)
    other = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1), dtype=x_t.dtype)
    deviation = (first - second) / (eps - other)
    return first - deviation * eps, deviation


@pytest.mark.parametrize("case", [case for case in SCHEDULERS if case != "DDIM"])
def test_the_step_and_the_bound_are_diffusers_own(case, unet, saved):
    make, options, _, variance, _ = SCHEDULERS[case]
    network, scheduler = learning(unet, variance), exactly(make(**options))
    reverse = read_diffusers(saved(network, scheduler)).reverse.double()
    posterior = exactly(DDPMScheduler(**{**options, "prediction_type": "sample", "clip_sample": False,
                                         "variance_type": "fixed_small"}))  # fmt: skip
    num_timesteps = scheduler.config.num_train_timesteps
    x_0, eps = noise(2, 3, 8, 8).clamp(-1, 1), noise(2, 3, 8, 8, seed=4)
    for t in sorted({1, 2, 3, num_timesteps // 2, num_timesteps}):
        ab = scheduler.alphas_cumprod[t - 1]
        x_t = ab.sqrt() * x_0 + (1 - ab).sqrt() * eps
        with torch.no_grad():
            output = network.double()(x_t, t - 1).sample
            ours = reverse.p_transition(x_t, t)
            term = bound_term(reverse, x_0, eps, t)
        if t == 1:  # diffusers adds no noise
            mean = scheduler.step(output, 0, x_t).prev_sample
            torch.testing.assert_close(ours.mean, mean, rtol=1e-8, atol=1e-8)
            continue
        mean, deviation = their_step(scheduler, output, x_t, t)
        torch.testing.assert_close(ours.mean, mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(
            (ours.log_variance / 2).exp().expand_as(deviation), deviation, rtol=1e-6, atol=1e-9
        )
        q = torch.distributions.Normal(*their_step(posterior, x_0, x_t, t))
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(mean, deviation))
        torch.testing.assert_close(term, kl.sum(dim=(1, 2, 3)), rtol=1e-6, atol=1e-6)


def test_the_summary_is_one_line(unet, saved):
    theirs = unet(num_class_embeds=5, sample_size=(4, 12))
    summary = read_diffusers(saved(theirs)).summary
    count = (
        sum(parameter.numel() for parameter in theirs.parameters()) + 32
    )  # 'no class' has a row of its own
    assert summary == (
        f"DDPMPipeline of diffusers: UNet2DModel, {count:,} parameters, images 3×4×12 of 5 classes; "
        "DDPMScheduler, T=1000, linear betas, epsilon, fixed_small, clipped"
    )


def test_is_diffusers(saved, tmp_path):
    assert not is_diffusers(tmp_path)
    assert not is_diffusers(tmp_path / "nowhere")
    for text, answer in (
        ("{", False),
        ("[]", False),
        ('{"format": 1}', False),
        ('{"_class_name": "UNet2DModel"}', True),
    ):
        (tmp_path / "config.json").write_text(text)
        assert is_diffusers(tmp_path) is answer, text
    (tmp_path / "config.json").unlink()
    (tmp_path / "model_index.json").write_text("{}")  # another pipeline: refused by name, not passed over
    assert is_diffusers(tmp_path)
    saved()
    assert is_diffusers(tmp_path)
    assert is_diffusers(tmp_path / "unet")
    (tmp_path / "model_index.json").unlink()
    assert is_diffusers(tmp_path)
