"""The generators that a network may draw from, and repeating what it drew."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Generators:
    """The state of the global generators: torch's of the CPU and of a device, Python's and NumPy's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module = None if device.type == "cpu" else torch.get_device_module(device)

    def state(self) -> tuple[Any, ...]:
        """Return the state of all of them."""
        on_device = None if self._module is None else self._module.get_rng_state(self._device)
        return torch.get_rng_state(), random.getstate(), np.random.get_state(), on_device

    @contextmanager
    def repeating(self, state: tuple[Any, ...] | None = None) -> Iterator[None]:
        """Draw as from that state on, by default the present one, then go on as if nothing had been drawn."""
        now = self.state()
        self._set(state or now)
        try:
            yield
        finally:
            self._set(now)

    def _set(self, state: tuple[Any, ...]) -> None:
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])
        if self._module is not None:
            self._module.set_rng_state(state[3], self._device)
