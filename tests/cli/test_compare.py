import json

import pytest

from nelbo.cli import main


def compare(*arguments):
    return main(["compare", *map(str, arguments), "--device", "cpu"])


def test_a_run_against_itself_and_against_another(run, train, tmp_path, capsys):
    assert compare(run, run, "--out", tmp_path / "same.json") == 0
    same = json.loads((tmp_path / "same.json").read_text())
    assert (same["difference"], same["standard_error"]) == (0.0, 0.0)
    assert "no difference" in capsys.readouterr().out
    assert train("longer", "--max-steps", 40) == 0
    capsys.readouterr()
    assert compare(run, "longer", "--out", tmp_path / "both.json") == 0
    found = json.loads((tmp_path / "both.json").read_text())
    assert found["difference"] == pytest.approx(
        found["second"]["bits_per_dim"] - found["first"]["bits_per_dim"]
    )
    assert found["shared_draws"] is True
    assert found["standard_error"] < found["unpaired_error"]
    shown = capsys.readouterr().out
    assert found["sentence"] in " ".join(shown.split())
    if abs(found["difference"]) > found["half_width"]:
        assert found["sentence"].startswith(str(run) if found["difference"] > 0 else "longer")


def test_what_cannot_be_compared(run, train, tmp_path, capsys):
    assert train("wide", "--image-size", 8, 8, "--coarse-pool", 1, "--max-steps", 1) == 0
    capsys.readouterr()
    assert compare(run, "wide") == 2
    assert "no image fits both" in capsys.readouterr().err
    assert compare(run, tmp_path / "none") == 2
    assert "is not a run" in capsys.readouterr().err
