"""What an annotation allows, and what is said of everything else."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field

from lightning_maml.arguments import TO_BE_MADE, Count, Made, Natural, Positive, Probability, checked, hints_of, require
from lightning_maml.errors import SettingError, refused

ADAM = hints_of(torch.optim.Adam.__init__)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Count, 1),
        (Natural | None, None),
        (Positive, 1),
        (Probability, 0),
        (Sequence[Count], [1, 2]),
        (Sequence[Count], (3,)),
        (Mapping[str, int], {"train": 3}),
        (int | Literal["auto"], "auto"),
        (str | timedelta | dict[str, int] | None, "00:00:15:00"),
        (ADAM["betas"], [0.0, 0.999]),
        (ADAM["lr"], 1),
        (torch.nn.Module, TO_BE_MADE),
        (list[Made], [TO_BE_MADE, torch.nn.ReLU()]),
        (list[Made], [{"_target_": "torch.nn.ReLU"}]),
        (Callable[..., Any], len),
        (Any, object()),
        (Annotated[int, {"unit": "pixels"}], 1),  # which cannot be hashed
    ],
)
def test_what_an_annotation_allows(hint: Any, value: object) -> None:
    require("some.setting", value, hint)


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (Count, 0, "some.setting=0: give a whole number of at least 1"),
        (Count, 1.0, "some.setting=1.0: give a whole number of at least 1"),
        (int, True, "some.setting=True: give a whole number"),
        (int, 2**63, "some.setting=9223372036854775808: give a whole number"),
        (int, "3", "some.setting=3: give a whole number"),
        (bool, 1, "some.setting=1: give true or false"),
        (str, 1, "some.setting=1: give text"),
        (float, float("nan"), "some.setting=nan: give a finite number"),
        (Positive, float("inf"), "some.setting=inf: give a positive number"),
        (float | None, "a", "some.setting=a: give a finite number, or null"),
        (None | int, "a", "some.setting=a: give a whole number, or null"),
        (Literal["max", "min"], "mean", "some.setting=mean: choose from max, min"),
        (int | Literal["auto"], "all", "some.setting=all: give a whole number, or auto"),
        (Sequence[Count], [3, 0], "some.setting=0: give a whole number of at least 1"),
        (Sequence[Count], 3, r"some.setting=3: give a list, \[a whole number of at least 1\]"),
        (Sequence[float], "12", r"some.setting=12: give a list, \[a finite number\]"),
        (Mapping[str, int], {"train": "x"}, "some.setting.train=x: give a whole number"),
        (dict[str, int] | None, 3, "some.setting=3: give a mapping, {KEY: VALUE}, or null"),
        (ADAM["betas"], [0.9], r"some.setting=\[0.9\]: give a list, \[a finite number, a finite number\]"),
        (ADAM["lr"], None, "some.setting=None: give a finite number$"),
        (list[Made], ["resize"], "some.setting=resize: give a node with a _target_"),
        (Annotated[int, Field(ge=1)], 0, "some.setting=0: give a whole number$"),
        (torch.nn.Module, 5, "some.setting=5: give a node whose _target_ makes a Module"),
    ],
)
def test_what_it_does_not(hint: Any, value: object, said: str) -> None:
    with pytest.raises(SettingError, match=f"^{said}"):
        require("some.setting", value, hint)


def test_a_checked_constructor_takes_its_arguments_in_any_way() -> None:
    class Thing:
        @checked("model.thing")
        def __init__(self, size: Count, *, name: str = "a", unsaid=3) -> None:  # type: ignore[no-untyped-def]
            self.all = (size, name, unsaid)

    assert Thing(1).all == (1, "a", 3) and Thing(size=2, name="b", unsaid="x").all == (2, "b", "x")
    for wrong in (lambda: Thing(0), lambda: Thing(size=0)):
        with pytest.raises(SettingError, match="^model.thing.size=0: "):
            wrong()
    with pytest.raises(TypeError, match="missing a required argument: 'size'"):
        Thing()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Invalid momentum value: -1", "optim.x.momentum=-1: "),
        ("Invalid learning rate: 0.5", "optim.x.lr=0.5: "),
        ("Invalid beta parameter at index 1: 1.5", r"optim.x.betas=\[0.9, 1.5\]: "),
        ("`Thing(lr=0.5)` will not do, whatever momentum", "optim.x.lr=0.5: "),
        (
            "something is wrong",
            r"optim.x=SGD\(momentum=-1, lr=0.5, betas=\[0.9, 1.5\]\): something is wrong; change it",
        ),
    ],
)
def test_a_librarys_refusal_names_the_setting_that_it_is_about(message: str, said: str) -> None:
    settings = {"momentum": -1, "lr": 0.5, "betas": [0.9, 1.5]}
    error = refused("optim.x", "SGD", settings, ValueError(message))
    with pytest.raises(SettingError, match=f"^{said}"):
        raise error
