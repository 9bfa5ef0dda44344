import pytest
from pydantic import ValidationError

from cisray.training.spec import TrainSpec


@pytest.mark.parametrize(
    "field",
    [
        "epochs",
        "batch_size",
        "accumulate_steps",
        "learning_rate",
        "clip_norm",
        "patience",
        "checkpoint_steps",
        "keep_checkpoints",
    ],
)
def test_what_must_be_positive(field):
    with pytest.raises(ValidationError, match=rf"training: {field}=0(\.0)?; wanted a positive number"):
        TrainSpec(**{field: 0})


@pytest.mark.parametrize("field", ["warmup_steps", "weight_decay", "shift_bp", "checkpoint_minutes"])
def test_what_must_not_be_negative(field):
    with pytest.raises(ValidationError, match=rf"training: {field}=-1(\.0)?; wanted zero or more"):
        TrainSpec(**{field: -1})
    TrainSpec(**{field: 0})


@pytest.mark.parametrize("field", ["ema_decay", "momentum"])
@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_shares(field, value):
    with pytest.raises(ValidationError, match=rf"training: {field}={value}; wanted at least 0 and less than 1"):
        TrainSpec(**{field: value})
    TrainSpec(**{field: 0})


def test_rates_go_forward_only():
    with pytest.raises(ValidationError, match=r"training: rate_factors\.head=-1\.0; wanted zero or more"):
        TrainSpec(rate_factors={"local": 0.0, "head": -1.0})


def test_compiling_and_recomputing_exclude_each_other():
    with pytest.raises(ValidationError, match=r"compile=true and checkpoint_activations=local; choose one"):
        TrainSpec(compile=True, checkpoint_activations="local")


def test_a_step_moves_by_all_accumulated_batches():
    assert TrainSpec(batch_size=8).examples_per_step == 8
    assert TrainSpec(batch_size=8, accumulate_steps=3).examples_per_step == 24
