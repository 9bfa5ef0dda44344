"""Put a learner aside and take it up again: weights, optimizer, progress. Tensors in safetensors, the rest in JSON."""

import dataclasses
import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from cisray.files import folder_written_whole, read_json
from cisray.training.loop import Learned, Learner


def write_learner(path: Path, learner: Learner) -> None:
    """Write all of a learner's state as the folder `path`, whole or not at all."""
    state = learner.optimizer.state_dict()
    moments = {
        f"{index}.{name}": value
        for index, part in state["state"].items()
        for name, value in part.items()
        if value is not None
    }
    progress = {"learned": dataclasses.asdict(learner.learned), "param_groups": state["param_groups"]}
    with folder_written_whole(path) as aside:
        save_file(_apart(learner.network.state_dict()), aside / "weights.safetensors")
        save_file(_apart(learner.best_weights), aside / "best.safetensors")
        save_file(_apart(moments), aside / "optimizer.safetensors")
        if learner.average is not None:
            save_file(_apart(learner.average.state_dict()), aside / "average.safetensors")
        # Python's JSON has words for NaN and infinity, which a metric may be; nobody else reads this file
        (aside / "learned.json").write_text(json.dumps(progress), encoding="utf-8")


def read_learner(path: Path, learner: Learner) -> None:
    """Give a fresh learner of the same network and settings the state that `write_learner` put aside."""
    learner.network.load_state_dict(load_file(path / "weights.safetensors"))
    learner.best_weights = load_file(path / "best.safetensors")
    if learner.average is not None:
        learner.average.load_state_dict(load_file(path / "average.safetensors"))
    values = read_json(path / "learned.json", what="checkpoint")
    learner.learned = Learned(**values["learned"])
    learner.saved_step = learner.learned.step
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    learner.optimizer.load_state_dict({"state": state, "param_groups": values["param_groups"]})


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the host, each with memory of its own, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
