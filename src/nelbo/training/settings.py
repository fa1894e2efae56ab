"""The settings of a training run, and when it ends. No torch here: the command line reads them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained."""

    objective: Literal["simple", "weighted", "variational", "hybrid"] = "simple"
    """The loss: simple (ω_t = 1), weighted (ω_t), the bound itself, or simple for the mean and the bound for σ²."""
    timesteps: Literal["uniform", "loss-second-moment"] = "uniform"
    """How t is drawn: uniformly, or p_t ∝ √E[L_t²] over the last 10 losses at t (with the variational or weighted
    objective), which begins when every t has had 10: after about 20 T images; until then it is uniform."""
    timestep_shift: float = 1.0
    """Above 1, uniform t are moved to higher noise, where a picture's shape is decided: better pictures from a
    short training, for more bits/dim. Below 1, the other way."""
    batch_size: int = 128
    """Images per step."""
    micro_batch: int | None = None
    """Images that go through the network at once, at most: the same step in less memory. All of them by default."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all weights, or Muon for the convolutions and AdamW for the rest."""
    learning_rate: float = 2e-4
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon."""
    warmup_images: int = 20_000
    """Images over which the learning rate rises from 0."""
    decay: bool = False
    """Let the learning rate fall along a cosine, to 0 at the end of the run."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    beta2: float = 0.999
    """AdamW's second-moment decay."""
    label_dropout: float = 0.1
    """Share of the images shown without their class, where classes are learned: guidance needs to know both."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_half_life: int = 500_000
    """Images after which a weight's share in the average has halved."""
    ema_warmup: float = 0.05
    """The half-life is at most this share of the images seen so far."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto takes bfloat16 where the hardware has it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Let torch.compile work for a minute or two, for faster steps. auto does where that pays: on a GPU, for runs
    of ten minutes or more; never on a CPU, where it needs a C++ compiler and gains nothing."""
    seed: int = 0
    """Decides every draw of the run."""


@dataclass(frozen=True)
class Limits:
    """When training ends (at the first that is reached) and what happens on the way."""

    max_steps: int | None = None
    """Stop after this many steps."""
    max_images: int | None = None
    """Stop after this many images."""
    max_minutes: float | None = None
    """Stop after this many minutes of training, those before a resume included."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints (one is always written at the end and on Ctrl-C)."""
    sample_minutes: float = 5.0
    """Minutes between grids of samples in RUN/samples; 0 for none."""
    keep: int = 2
    """Checkpoints to keep."""
