"""Count the memory that tensors take, of a computation that need not be done.

Scratch space inside operations is not seen, nor what the process has besides.
"""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that came to be while it was on: those alive now, and the most there were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, outputs)
        return outputs

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, name: int, size: int) -> None:
        self._known.remove(name)
        self.now -= size


def peak_bytes(step: Callable[[], object]) -> int:
    """Return the most bytes that a step would have at a time, which makes all its tensors itself; none is computed."""
    with FakeTensorMode(), LiveBytes() as live:
        step()
    return live.peak
