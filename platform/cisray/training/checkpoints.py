"""Put a learner aside and take it up again: weights, optimizer, progress. Tensors in safetensors, the rest in JSON."""

import dataclasses
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from cisray.files import folder_written_whole, read_json
from cisray.training.loop import Learned, Learner
from cisray.training.sharding import gather, load_moments, load_weights, moments_of


def write_learner(path: Path, learner: Learner, *, first: bool = True) -> None:
    """Write all of a learner's state as the folder `path`, whole or not at all.

    Every worker calls this, because each may hold a share of the tensors; only the `first` one writes.
    """
    tensors = {
        "weights": gather(learner.network.state_dict()),
        "optimizer": gather(moments_of(learner.network, learner.optimizer)),
        "best": learner.best_weights,
    }
    if learner.average is not None:
        tensors["average"] = gather(learner.average.state_dict())
    if not first:
        return
    with folder_written_whole(path) as aside:
        for name, named in tensors.items():
            save_file(named, aside / f"{name}.safetensors")
        # Python's JSON has words for NaN and infinity, which a metric may be; nobody else reads this file
        progress = {"learned": dataclasses.asdict(learner.learned)}
        (aside / "learned.json").write_text(json.dumps(progress), encoding="utf-8")


def read_learner(path: Path, learner: Learner) -> None:
    """Give a fresh learner of the same network and settings the state that `write_learner` put aside."""
    load_weights(learner.network, load_file(path / "weights.safetensors"))
    load_moments(learner.network, learner.optimizer, load_file(path / "optimizer.safetensors"))
    learner.best_weights = load_file(path / "best.safetensors")
    if learner.average is not None:
        load_weights(learner.average, load_file(path / "average.safetensors"))
    values = read_json(path / "learned.json", what="checkpoint")
    learner.learned = Learned(**values["learned"])
    learner.saved_step = learner.learned.step
