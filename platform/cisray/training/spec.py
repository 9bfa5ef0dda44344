"""How a network learns: what a job's [training] section may say."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSpec:
    """How a network learns."""

    epochs: int = 10
    batch_size: int = 32
    """Examples per worker that pass through the network at once."""
    accumulate_steps: int = 1
    """Batches per step: so many times `batch_size` examples move the weights together, in the memory of one batch."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    """Of sgd."""
    learning_rate: float = 2e-3
    """Peak of the schedule: linear warm-up, then cosine decay to 1% of it."""
    rate_factors: dict[str, float] = Field(default_factory=dict)
    """How much faster the parameters whose names start so learn than the others; the longest of several counts."""
    warmup_steps: int = 100
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    """Largest norm of a step's gradient."""
    ema_decay: float = 0.0
    """Share of the old in a running mean of the weights, which is then what is evaluated and saved; 0 takes none."""
    reverse_complement: bool = True
    """Read every second training example, at random, on the other strand."""
    shift_bp: int = 0
    """Largest random shift of a training example; at most the dataset's margin."""
    patience: int = 5
    """Epochs without a better validation metric before training stops."""
    checkpoint_steps: int = 200
    """Steps between checkpoints; the end of an epoch makes one too."""
    checkpoint_minutes: float = 0.0
    """Most minutes between checkpoints, looked at every 20 steps; 0 counts steps only."""
    keep_checkpoints: int = 2
    """Checkpoints that stay on disk, the newest ones; each also holds the best weights so far."""
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    """Let torch.compile write kernels for the network: minutes at the start, for faster steps."""
    checkpoint_activations: Literal["none", "local", "context", "both"] = "none"
    """Parts of the network whose activations are computed again instead of kept: less memory, more arithmetic."""
    seed: int = Field(default=0, ge=0)

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "accumulate_steps",
            "learning_rate",
            "clip_norm",
            "patience",
            "checkpoint_steps",
            "keep_checkpoints",
        ):
            if getattr(self, name) <= 0:
                raise InputError(f"training: {name}={getattr(self, name)}; wanted a positive number")
        for name in ("warmup_steps", "weight_decay", "shift_bp", "checkpoint_minutes"):
            if getattr(self, name) < 0:
                raise InputError(f"training: {name}={getattr(self, name)}; wanted zero or more")
        for name in ("ema_decay", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"training: {name}={getattr(self, name)}; wanted at least 0 and less than 1")
        for prefix, factor in self.rate_factors.items():
            if factor < 0:
                raise InputError(f"training: rate_factors.{prefix}={factor}; wanted zero or more")
        if self.compile and self.checkpoint_activations != "none":
            raise InputError(
                f"training: compile=true and checkpoint_activations={self.checkpoint_activations}; choose one, for the "
                "compiler decides by itself what to compute again"
            )

    @property
    def examples_per_step(self) -> int:
        """Examples of one worker that move the weights together."""
        return self.batch_size * self.accumulate_steps
