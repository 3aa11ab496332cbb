"""How much memory a gradient takes, and how much there is."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

_FASTEST_ON_CPU = 1e9  # bytes kept at once; with more a CPU is slower again (benchmarks/README.md)


def room(device: torch.device) -> float:
    """Return the bytes that autograd may keep: half of what the device, or the machine, has free; on a CPU no more than
    is fast."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2
    return min(psutil.virtual_memory().available / 2, _FASTEST_ON_CPU)


class KeptBytes:
    """Counts the bytes of the tensors that autograd keeps, each storage once and while it is kept.

    Attributes:
        peak: the most that was kept at a time.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._now = 0
        self._holders: Counter[int] = Counter()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is kept within the block."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept):
            yield

    def _keep(self, tensor: Tensor) -> Tensor:
        kept = tensor.detach()
        storage = kept.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        self._now += size if not self._holders[address] else 0
        self._holders[address] += 1
        self.peak = max(self.peak, self._now)
        weakref.finalize(kept, self._release, address, size)
        return kept

    def _release(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        self._now -= size if not self._holders[address] else 0
