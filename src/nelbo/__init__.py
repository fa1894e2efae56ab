"""nelbo: denoising diffusion on your own images, with a likelihood in bits per dimension and its error bar.

Names are loaded when they are first used, so that the command line answers without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nelbo.bound import VariationalBound, bound_term, floor, path_bound, variational_bound
    from nelbo.forward import ForwardProcess
    from nelbo.gaussian import DiscretizedGaussian, Gaussian, kl_divergence
    from nelbo.nn import EMA, UNet
    from nelbo.objectives import hybrid, simple, variational, weighted
    from nelbo.parameterization import X0, Epsilon, V
    from nelbo.reference import ReferenceDecoder
    from nelbo.reverse import Prediction, ReverseProcess
    from nelbo.run import load
    from nelbo.samplers import SampleState, sample
    from nelbo.schedule import NoiseSchedule
    from nelbo.units import bits_per_dim
    from nelbo.variance import Analytic, FixedLarge, FixedSmall, LearnedRange

__version__ = "0.1.0"

_HOMES = {
    "bound": ("VariationalBound", "bound_term", "floor", "path_bound", "variational_bound"),
    "forward": ("ForwardProcess",),
    "gaussian": ("DiscretizedGaussian", "Gaussian", "kl_divergence"),
    "nn": ("EMA", "UNet"),
    "objectives": ("hybrid", "simple", "variational", "weighted"),
    "parameterization": ("Epsilon", "V", "X0"),
    "reference": ("ReferenceDecoder",),
    "reverse": ("Prediction", "ReverseProcess"),
    "run": ("load",),
    "samplers": ("SampleState", "sample"),
    "schedule": ("NoiseSchedule",),
    "units": ("bits_per_dim",),
    "variance": ("Analytic", "FixedLarge", "FixedSmall", "LearnedRange"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 (grouped by module)
    "VariationalBound", "bound_term", "floor", "path_bound", "variational_bound", "ForwardProcess",
    "DiscretizedGaussian", "Gaussian", "kl_divergence", "EMA", "UNet", "hybrid", "simple", "variational",
    "weighted", "Epsilon", "V", "X0", "ReferenceDecoder", "Prediction", "ReverseProcess", "load", "SampleState",
    "sample", "NoiseSchedule", "bits_per_dim", "Analytic", "FixedLarge", "FixedSmall", "LearnedRange",
    "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'nelbo' has no attribute {name!r}")
    value = getattr(import_module(f"nelbo.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
