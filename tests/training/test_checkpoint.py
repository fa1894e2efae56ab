import json
import os

import pytest
import torch

from nelbo.training import checkpoint
from nelbo.training.checkpoint import CheckpointError

PARTS = {
    "network": {"a.weight": torch.arange(6.0).reshape(2, 3)},
    "optimizer": {"a.weight/step": torch.tensor(3.0)},
}


def write(folder, step, keep=5):
    return checkpoint.write(folder, step, PARTS, {"step": step, "seconds": 0.1 + step}, keep=keep)


def test_what_is_written_comes_back(tmp_path):
    place = write(tmp_path, 12)
    assert place.name == "step-00000012"
    found, problems = checkpoint.newest(tmp_path)
    assert problems == []
    assert found.state == {"step": 12, "seconds": 12.1}
    for part, tensors in PARTS.items():
        back = found.tensors(part)
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert not list(tmp_path.glob(".writing-*"))
    assert {f.suffix for f in place.iterdir()} == {".safetensors", ".json"}


def test_the_newest_are_kept(tmp_path):
    for step in (9, 10, 100, 20):
        write(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]
    assert checkpoint.newest(tmp_path)[0].state["step"] == 100


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: flip_a_bit(p / "network.safetensors"), "network.safetensors is damaged"),
        (lambda p: (p / "optimizer.safetensors").write_bytes(b""), "optimizer.safetensors is damaged"),
        (lambda p: os.truncate(p / "network.safetensors", 40), "network.safetensors is damaged"),
        (lambda p: (p / "network.safetensors").unlink(), "lacks network.safetensors"),
        (lambda p: (p / "state.json").write_text("{}"), "state.json is damaged"),
        (lambda p: (p / "manifest.json").unlink(), "no manifest.json: it is not a whole checkpoint"),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda p: (p / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (lambda p: newer_format(p / "manifest.json"), "has format 99, this nelbo reads 1"),
    ],
)
def test_a_damaged_one_is_named_and_passed_over(tmp_path, damage, message):
    write(tmp_path, 1)
    damage(write(tmp_path, 2))
    found, problems = checkpoint.newest(tmp_path)
    assert found.state["step"] == 1
    assert len(problems) == 1
    assert message in problems[0]
    assert "step-00000002" in problems[0]


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def newer_format(file):
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))


def test_a_half_written_directory_is_never_taken_for_a_checkpoint(tmp_path):
    write(tmp_path, 1)
    draft = tmp_path / ".writing-step-00000002-1"
    draft.mkdir()
    (draft / "network.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path)[0].state["step"] == 1
    write(tmp_path, 3)
    assert not draft.exists()


def test_none_at_all(tmp_path):
    assert checkpoint.newest(tmp_path / "nowhere") == (None, [])


def test_what_cannot_be_written_is_an_error_that_names_the_place(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*step-00000001"):
        write(tmp_path / "file", 1)


def test_the_same_step_again_replaces_it(tmp_path):
    write(tmp_path, 1)
    checkpoint.write(tmp_path, 1, {"network": {}}, {"step": 1, "again": True}, keep=2)
    assert checkpoint.newest(tmp_path)[0].state["again"] is True
