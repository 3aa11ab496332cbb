"""AutoLoop takes the fastest of the loops that work, once for each shape."""

import logging
from functools import partial
from typing import Any

import pytest
import torch

from lightning_maml.algorithms import MAML
from lightning_maml.errors import SettingError
from lightning_maml.inner_loops import AutoLoop, HigherLoop, Objective
from tests.tasks import classification, small_conv4
from tests.unit.inner_loops.test_exact_loops import SGD, Branching, difference


class Slow:
    """A loop that takes its time, by a clock that the test advances."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0
        self._loop = HigherLoop(SGD)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        self.calls += 1
        self.clock[0] += self.seconds
        return self._loop(*arguments, **settings)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr("lightning_maml.inner_loops.auto_loop._now", lambda _: clock[0])
    return clock


def auto(clock: list[float], **seconds: float) -> tuple[AutoLoop, dict[str, Slow]]:
    loop = AutoLoop(SGD)
    slow = {name: Slow(clock, time) for name, time in seconds.items()}
    loop._loops = dict(slow)
    return loop, slow


def train(loop: Any, tasks: int = 2) -> Any:
    return loop(MAML(small_conv4()), classification(tasks), steps=1, objective=Objective.final(1))


def test_the_fastest_is_taken_and_the_choice_is_logged_with_the_times(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loop, slow = auto(clock, higher=1.0, vectorized=0.9, chunks=2.0)
    train(loop)
    assert "takes vectorized for meta-training (higher 1 s, vectorized 0.9 s, chunks 2 s a meta-batch)" in caplog.text
    assert slow["chunks"].calls == 2  # to warm up, and once: it is hopeless
    before = slow["higher"].calls, slow["chunks"].calls, slow["vectorized"].calls
    train(loop)
    assert (slow["higher"].calls, slow["chunks"].calls, slow["vectorized"].calls) == (*before[:2], before[2] + 1)


def test_one_slow_repetition_does_not_decide(clock: list[float]) -> None:
    """The second of three takes ten times as long."""
    loop, slow = auto(clock, higher=1.0, vectorized=0.9)

    class Hiccup(Slow):
        def __call__(self, *arguments: Any, **settings: Any) -> Any:
            self.clock[0] += 8.1 if self.calls == 2 else 0.0
            return super().__call__(*arguments, **settings)

    loop._loops["vectorized"] = slow["vectorized"] = Hiccup(clock, 0.9)
    train(loop)
    assert list(loop.state_dict().values()) == ["vectorized"] and slow["vectorized"].calls == 5


def test_each_shape_and_evaluation_are_chosen_for_themselves(clock: list[float]) -> None:
    loop, _ = auto(clock, higher=1.0, vectorized=0.5)
    train(loop)
    train(loop, tasks=3)
    loop(MAML(small_conv4()), classification(2), steps=1)
    assert len(loop.state_dict()) == 3


def test_the_choice_is_kept_in_its_state(clock: list[float]) -> None:
    loop, _ = auto(clock, higher=1.0, vectorized=0.5)
    train(loop)
    resumed, slow = auto(clock, higher=0.1, vectorized=0.5)
    resumed.load_state_dict(loop.state_dict())
    train(resumed)
    assert slow["higher"].calls == 0 and slow["vectorized"].calls == 1


def test_its_gradient_is_highers_and_what_is_drawn_afterwards_does_not_depend_on_the_timing() -> None:
    torch.manual_seed(0)
    _, expected = train(HigherLoop(SGD))
    torch.manual_seed(0)
    _, found = train(AutoLoop(SGD))
    assert difference(found, expected) < 1e-9


def test_a_loop_that_cannot_batch_the_network_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    loop = AutoLoop(SGD)
    loop(MAML(Branching()), classification(2), steps=1, objective=Objective.final(1))
    assert set(loop.state_dict().values()) < {"higher", "vectorized, single tasks"}  # one of those that batch nothing
    assert (
        "leaves out vectorized, chunks of 4: inner_loop=vectorized: it cannot compute network Branching" in caplog.text
    )
    assert "leaves out vectorized: inner_loop=vectorized: it cannot compute network Branching" in caplog.text


def test_with_another_optimizer_than_sgd_it_is_higher() -> None:
    loop = AutoLoop(partial(torch.optim.Adam, lr=0.01))
    train(loop)
    assert set(loop.state_dict().values()) == {"higher"}


def test_where_nothing_fits_it_recomputes(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    class Full:
        def __call__(self, *arguments: Any, **settings: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    caplog.set_level(logging.INFO)
    loop = AutoLoop(SGD)
    loop._loops = {"higher": Full(), "vectorized": Full()}
    _, gradients = train(loop)
    assert gradients is not None and list(loop.state_dict().values()) == ["recompute"]


def test_a_deterministic_run_must_say_which() -> None:
    with pytest.raises(SettingError, match="deterministic=True: inner_loop=auto chooses by time"):
        AutoLoop(SGD, deterministic=True)
