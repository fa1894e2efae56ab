import re

import pytest

from nelbo import calibration
from nelbo.calibration import Cost
from nelbo.cli import main
from nelbo.cli.doctor import _span


def test_the_doctor_says_what_is_there_and_what_it_costs(photos, capsys):
    (photos / "torn.png").write_bytes(b"\x89PNG")
    try:
        assert (
            main(["doctor", str(photos), "--presets", "quick", "--image-size", "32", "32", "--device", "cpu"])
            == 0
        )
    finally:
        (photos / "torn.png").unlink()
    shown = capsys.readouterr().out
    assert "12 images, 3×32×32" in shown
    assert "1 skipped: torn.png" in shown
    assert re.search(r"\d+ images to train on, \d+ held out", shown)
    assert re.search(r"on the CPU, \d+ threads, \d+ GiB, in (bfloat16|float32)", shown)
    assert re.search(r"quick +[\d.]+ +[\d.]+ \w+ +[\d.]+ \w+ +[\d.]+ GiB +[\d.]+ \w+", shown)
    assert "for 10 minutes: --preset quick --max-minutes 10" in shown


def test_advice_follows_what_was_measured(photos, capsys, monkeypatch):
    monkeypatch.setattr(calibration, "cost_of", lambda config, device: Cost(1e6, 320.0, 2**60))
    assert main(["doctor", str(photos), "--epochs", "7"]) == 0
    shown = capsys.readouterr().out
    assert "for 10 minutes: --preset overnight --max-minutes 10" in shown
    assert "7 epochs" in shown
    assert "10 s" in shown  # 64 pictures in 50 steps at 320 evaluations a second
    assert "warning: quick needs more memory than there is; give a lower --micro-batch" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["--epochs", "0"], "--epochs is 0; give at least 1"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used here"),
    ],
)
def test_what_cannot_be_is_one_line(photos, capsys, arguments, message):
    data = [] if arguments == ["nowhere"] else [str(photos)]
    assert main(["doctor", *data, *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.3, "0.3 s"), (61.0, "61 s"), (150.0, "2 min"), (9000.0, "2 h"), (4e5, "5 days")]
)
def test_a_span_is_said_as_one_would(seconds, said):
    assert _span(seconds) == said
