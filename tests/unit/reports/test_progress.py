"""How many meta-updates there will be, and how long they take, as said at the start."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_maml.reports import Progress, progress


class Clock:
    """Time that goes on when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def trainer(**changes: Any) -> Any:
    """What the bar asks of a trainer before the first of 4 epochs of 10 meta-batches."""
    settings = {"max_epochs": 4, "max_steps": -1, "num_training_batches": 10, "global_step": 0, "callback_metrics": {}}
    place = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=-1))
    module = SimpleNamespace(accumulate=changes.pop("accumulate", 1))
    return SimpleNamespace(fit_loop=place, lightning_module=module, **(settings | changes))


def said_of_the_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: list[float], **changes: Any
) -> list[str]:
    """The estimates, when meta-batches take as many seconds."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    caplog.set_level(logging.INFO)
    bar, run = Progress(), trainer(**changes)
    bar.on_train_start(run, run.lightning_module)
    for one in seconds:
        clock.now += one
        run.fit_loop.epoch_loop.total_batch_idx += 1
        bar.on_train_batch_end(run, run.lightning_module)
    return [record.message for record in caplog.records if "will take" in record.message]


def test_the_time_is_said_once_by_the_pace_after_a_slow_first_meta_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = said_of_the_time(monkeypatch, caplog, [9.0] + [2.0] * 39)
    assert lines == ["meta-training will take about 1 min 27 s"]  # 9 + 39 × 2


def test_no_time_is_said_where_it_is_over_at_once_or_has_no_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert said_of_the_time(monkeypatch, caplog, [0.01] * 40) == []
    assert said_of_the_time(monkeypatch, caplog, [2.0] * 40, max_epochs=-1) == []


def test_other_ranks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bar, run = Progress(), trainer()
    bar.disable()
    bar.on_train_start(run, run.lightning_module)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        ({}, "40 meta-updates"),
        ({"accumulate": 4}, "12 meta-updates"),  # the third of an epoch is of two meta-batches
        ({"max_steps": 7}, "7 meta-updates"),
        ({"max_epochs": 1, "num_training_batches": 1}, "1 meta-update"),
        ({"max_epochs": -1}, "meta-updates without an end"),
        ({"global_step": 20}, "40 meta-updates, 20 done before"),
    ],
)
def test_the_plan(changes: dict[str, Any], plan: str) -> None:
    assert progress._plan(trainer(**changes)) == plan
