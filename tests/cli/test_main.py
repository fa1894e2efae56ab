"""The dispatcher: help, versions, and how errors end."""

import sys
import types
import warnings

import pytest

import nelbo
from nelbo.cli import COMMANDS, main
from nelbo.presets import PRESETS


@pytest.fixture
def command(monkeypatch):
    """Let ``nelbo train`` be a function of the test."""

    def command(function):
        monkeypatch.setitem(sys.modules, "nelbo.cli.train", types.SimpleNamespace(main=function))

    return command


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for name, summary in COMMANDS.items():
        assert f"{name:<10} {summary}" in shown.out
    assert "nelbo train photos/ --out runs/photos" in shown.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_its_example_and_defaults(name, capsys):
    assert main([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: nelbo {name} " in shown
    assert f"usage: nelbo {name}" in shown
    minutes = f"(default: {PRESETS['quick'].limits.max_minutes})"
    defaults = {
        "train": minutes,
        "sample": "(default: 64)",
        "doctor": "(default: 100)",
        "edit": "(default: 5)",
    }
    assert defaults.get(name, "(default: 24)") in shown
    assert {"train": "DATA", "doctor": "DATA", "compare": " A B"}.get(name, "RUN") in shown


def test_help_shows_the_defaults_of_the_preset(capsys):
    assert main(["train", "--preset", "ddpm", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"(default: {PRESETS['ddpm'].limits.max_steps})" in shown
    assert "(default: ddpm)" in shown


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag, capsys):
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"nelbo {nelbo.__version__}\n"


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_what_a_user_can_mend_is_one_line(error, command, capsys, monkeypatch):
    def fail(arguments):
        assert arguments == ["a", "b"]
        raise error("first\n   second")

    command(fail)
    assert main(["train", "a", "b"]) == 2
    assert capsys.readouterr().err == "nelbo: first second\n"
    monkeypatch.setenv("NELBO_TRACEBACK", "1")
    with pytest.raises(error):
        main(["train", "a", "b"])


def test_an_error_without_words_is_named(command, capsys):
    command(lambda _: (_ for _ in ()).throw(RuntimeError()))
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "nelbo: RuntimeError\n"


def test_a_bug_is_not_hidden(command):
    command(lambda _: {}["missing"])
    with pytest.raises(KeyError):
        main(["train"])


def test_ctrl_c(command, capsys):
    command(lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "nelbo: interrupted\n"


def test_a_warning_is_one_line(command, capsys):
    def warn(_):
        warnings.warn("this\nand that", UserWarning, stacklevel=1)
        return 0

    command(warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["train"]) == 0
    assert capsys.readouterr().err == "nelbo: warning: this and that\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_option_is_status_2_without_a_traceback(name, capsys, tmp_path):
    assert main([name, *["x", "y"][: 1 + (name == "compare")], "--bogus", "1"]) == 2
    shown = capsys.readouterr().err
    assert "--bogus" in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []
