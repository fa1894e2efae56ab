"""What is not supported, or is damaged, ends in one clear line."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from safetensors.torch import load_file, save_file

from nelbo.interop.diffusers import WEIGHTS, read_diffusers
from nelbo.interop.diffusers_weights import translate


def refusal(folder):
    """The one line that reading the folder ends in."""
    with pytest.raises(ValueError, match=r".") as caught:
        read_diffusers(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


UNSUPPORTED = {
    "center_input_sample": (True, "nelbo reads false"),
    "time_embedding_type": ("fourier", 'nelbo reads "positional"'),
    "time_embedding_dim": (64, "nelbo reads null or 32"),
    "mid_block_type": (None, 'nelbo reads "UNetMidBlock2D"'),
    "mid_block_scale_factor": (1.4, "nelbo reads 1"),
    "downsample_type": ("resnet", 'nelbo reads "conv"'),
    "upsample_type": ("resnet", 'nelbo reads "conv"'),
    "resnet_time_scale_shift": ("scale_shift", 'nelbo reads "default"'),
    "act_fn": ("gelu", 'nelbo reads "silu" or "swish"'),
    "class_embed_type": ("timestep", "nelbo reads null"),
    "attn_norm_num_groups": (2, "nelbo reads null or 4"),
    "down_block_types": (["SkipDownBlock2D", "DownBlock2D"], "lists of DownBlock2D and AttnDownBlock2D"),
    "up_block_types": (["UpBlock2D", "AttnUpBlock2D"], "that mirror down_block_types"),
    "out_channels": (4, "nelbo reads 3 or 6"),
    "sample_size": (None, "the side of the images, or [height, width]"),
    "in_channels": (True, "a whole number of at least 1"),
    "layers_per_block": ([1, 2], "a whole number of at least 1"),
    "norm_num_groups": (None, "a whole number of at least 1"),
    "downsample_padding": (2, "nelbo reads 0 or 1"),
    "norm_eps": ("small", "a number"),
    "add_attention": (1, "nelbo reads true or false"),
    "a_new_key": (1, "is not a key that nelbo knows"),
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_a_network_that_nelbo_has_not_is_refused_by_key_and_value(key, saved, edit):
    value, supported = UNSUPPORTED[key]
    path = saved() / "unet" / "config.json"
    edit(path, **{key: value})
    message = refusal(path.parent.parent)
    assert f"{path}: {key}={json.dumps(value)}" in message
    assert supported in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"block_out_channels": [8]}, "one block for each of the 1 block_out_channels"),
        ({"attention_head_dim": 3}, "does not describe a network: head_dim=3 does not divide"),
        ({"sample_size": [8, 8, 8]}, "sample_size=[8, 8, 8] is not supported"),
        ({"sample_size": 7}, "sample_size: images of height 7 and width 7 do not fit"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel; nelbo reads UNet2DModel"),
    ],
)
def test_configurations_that_make_no_network_are_refused(values, message, saved, edit):
    path = saved() / "unet" / "config.json"
    edit(path, **values)
    assert str(path) in refusal(path.parent.parent)
    assert message in refusal(path.parent.parent)


UNSUPPORTED_SCHEDULERS = {
    "thresholding": (True, "nelbo reads false"),
    "rescale_betas_zero_snr": (True, "nelbo reads false"),
    "clip_sample_range": (2.0, "nelbo reads 1"),
    "beta_schedule": ("sigmoid", 'nelbo reads "linear" or "scaled_linear" or "squaredcos_cap_v2"'),
    "variance_type": ("learned", 'nelbo reads "fixed_small" or'),
    "prediction_type": ("flow", 'nelbo reads "epsilon" or "sample" or "v_prediction"'),
    "num_train_timesteps": (0, "a whole number of at least 1"),
    "trained_betas": ([0.1, "x"], "a list of numbers"),
    "beta_end": ("0.02", "a number"),
    "interpolation_type": ("linear", "is not a key that nelbo knows"),
}


@pytest.mark.parametrize("key", UNSUPPORTED_SCHEDULERS)
def test_a_scheduler_that_nelbo_has_not_is_refused_by_key_and_value(key, saved, edit, tmp_path):
    value, supported = UNSUPPORTED_SCHEDULERS[key]
    path = saved() / "scheduler" / "scheduler_config.json"
    edit(path, **{key: value})
    message = refusal(tmp_path)
    assert f"{path}: {key}={json.dumps(value)}" in message
    assert supported in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variance_type": "learned_range"}, "does not fit a network of 3 channels in and 3 out"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 values, num_train_timesteps is 1000"),
        ({"beta_start": 0.0}, "does not describe a schedule: β_1 = 0 is outside"),
        ({"beta_start": -1e-4, "beta_schedule": "scaled_linear"}, "beta_start=-0.0001"),
        ({"_class_name": "PNDMScheduler"}, "PNDMScheduler; nelbo reads DDPMScheduler or DDIMScheduler"),
    ],
)
def test_schedulers_that_make_no_process_are_refused(values, message, saved, edit, tmp_path):
    edit(saved() / "scheduler" / "scheduler_config.json", **values)
    assert message in refusal(tmp_path)


def test_two_outputs_and_a_fixed_variance_are_refused(unet, saved):
    for scheduler in (DDPMScheduler(), DDIMScheduler()):
        folder = saved(unet(out_channels=6), scheduler)
        assert "fixed_small does not fit a network of 3 channels in and 6 out" in refusal(folder)


def test_pickled_weights_are_named_with_the_way_out(unet, saved):
    theirs = unet()
    folder = saved(theirs, safe_serialization=False)
    message = refusal(folder)
    assert "diffusion_pytorch_model.bin, a pickle" in message
    exec(message.partition("safetensors: ")[2])  # the line that it gives
    assert_same_weights(folder, theirs)


def test_pickled_weights_of_a_network_alone(unet, tmp_path):
    theirs = unet()
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    exec(refusal(tmp_path).partition("safetensors: ")[2])
    assert_same_weights(tmp_path, theirs)


def assert_same_weights(folder, theirs):
    ours = read_diffusers(folder).reverse.network.state_dict()
    assert len(ours) == len(theirs.state_dict())
    for name, value in translate(theirs.state_dict()).items():
        assert torch.equal(ours[name], value), name


def test_bad_folders(saved, edit, tmp_path):
    assert "is not a folder" in refusal(tmp_path / "nowhere")
    assert "config.json is missing" in refusal(tmp_path)
    saved()
    weights, config = tmp_path / "unet" / WEIGHTS, tmp_path / "unet" / "config.json"
    whole, text = weights.read_bytes(), config.read_text()

    weights.unlink()
    assert f"{weights} is missing" in refusal(tmp_path)
    (tmp_path / "unet" / f"{WEIGHTS}.index.json").write_text("{}")
    assert "in several files" in refusal(tmp_path)
    for content in (whole[:-100], whole[:20], b"", b"not safetensors"):
        weights.write_bytes(content)
        assert f"{weights} cannot be read" in refusal(tmp_path)
    weights.write_bytes(whole)

    for content in ("{", "[]", "\xff"):
        config.write_text(content, encoding="latin-1")
        assert str(config) in refusal(tmp_path)
    config.write_text(text)

    index = tmp_path / "model_index.json"
    edit(index, _class_name="LDMPipeline", vqvae=["diffusers", "VQModel"])
    assert "LDMPipeline has vqvae" in refusal(tmp_path)
    edit(index, vqvae=[None, None])
    read_diffusers(tmp_path)

    shutil.rmtree(tmp_path / "scheduler")
    assert f"one is expected in {tmp_path / 'scheduler' / 'scheduler_config.json'}" in refusal(tmp_path)


def test_weights_of_another_network_are_refused(saved, tmp_path):
    path = saved() / "unet" / WEIGHTS
    state = load_file(path)
    whole = dict(state)
    del state["mid_block.resnets.0.conv1.weight"], state["mid_block.resnets.0.conv1.bias"]
    save_file(state, path)
    assert "it lacks middle.resnet_1.conv1.bias and 1 more" in refusal(tmp_path)
    save_file({**whole, "extra.weight": torch.zeros(1)}, path)
    assert "it has besides extra.weight" in refusal(tmp_path)
    save_file({**whole, "conv_in.bias": torch.zeros(7)}, path)
    assert "conv_in.bias has shape (7,) in place of (8,)" in refusal(tmp_path)
