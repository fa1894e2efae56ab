"""What ``import nelbo`` gives, and that the command line starts without torch."""

import subprocess
import sys

import pytest

import nelbo

CONTRACT = [
    "Gaussian",
    "kl_divergence",
    "DiscretizedGaussian",
    "NoiseSchedule",
    "ForwardProcess",
    "ReverseProcess",
    "Prediction",
    "bound_term",
    "variational_bound",
    "path_bound",
    "VariationalBound",
    "sample",
    "SampleState",
    "load",
    "Epsilon",
    "X0",
    "V",
    "FixedLarge",
    "FixedSmall",
    "LearnedRange",
    "simple",
    "weighted",
    "variational",
    "hybrid",
    "UNet",
    "EMA",
    "bits_per_dim",
    "Analytic",
    "ReferenceDecoder",
    "floor",
]
HEAVY = ("torch", "numpy", "PIL", "safetensors", "matplotlib", "jaxtyping")


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", CONTRACT)
def test_every_name_of_the_contract_is_here(name):
    assert callable(getattr(nelbo, name))
    assert name in dir(nelbo)
    assert name in nelbo.__all__
    assert getattr(nelbo, name).__module__.startswith("nelbo.")


def test_dir_is_all_and_all_of_it_exists():
    assert dir(nelbo) == sorted(nelbo.__all__)
    assert len(set(nelbo.__all__)) == len(nelbo.__all__)
    for name in nelbo.__all__:
        getattr(nelbo, name)
    assert nelbo.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'nelbo' has no attribute 'sampel'"):
        _ = nelbo.sampel


def loaded_after(statement, names):
    """Which of the modules are loaded after a statement, in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint('loaded:', *[n for n in {names!r} if n in sys.modules])"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.rsplit("loaded:", 1)[1].split()


@pytest.mark.parametrize(
    "statement", ["import nelbo; dir(nelbo)", "import nelbo.cli; nelbo.cli.main(['--help'])"]
)
def test_nothing_heavy_is_imported_for_help(statement):
    assert loaded_after(statement, (*HEAVY, "tyro", "rich")) == []


def test_torch_is_imported_when_a_name_is_used():
    assert "torch" in loaded_after("import nelbo; nelbo.NoiseSchedule", HEAVY)


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_the_help_of_a_command_imports_no_torch(command):
    assert loaded_after(f"import nelbo.cli; assert nelbo.cli.main([{command!r}, '--help']) == 0", HEAVY) == []


def test_python_m_nelbo():
    done = python("-X", "importtime", "-m", "nelbo", "--help")
    assert done.returncode == 0
    assert "nelbo train photos/ --out" in done.stdout
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "nelbo.cli" in imported
    assert not imported & {*HEAVY, "tyro", "rich"}
    refused = python("-m", "nelbo", "trian")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
