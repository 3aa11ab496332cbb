"""Any combination of group members and in-range settings trains, or is refused in one line.

EXAMPLES=500 python -m pytest tests/integration/test_fuzz.py tries more of them, every member of every group among them.
"""

import os
from pathlib import Path

import pytest

from tests.integration.configurations import drawn, members, outcome

EXAMPLES = int(os.environ.get("EXAMPLES", "30"))


@pytest.mark.parametrize("overrides", drawn(EXAMPLES, seed_of_all=0), ids=lambda overrides: "-".join(overrides[:3]))
def test_it_trains_or_is_refused_in_one_line(tmp_path: Path, overrides: list[str]) -> None:
    found = outcome(overrides, tmp_path / "run")
    assert found.kind in ("trained", "refused"), f"{found.said}: python src/run.py {overrides}"


def test_every_member_has_its_turn_in_a_campaign() -> None:
    every = {f"{group}={name}" for group, names in members().items() for name in names}
    assert len(every) > 60 and every <= {override for overrides in drawn(500, 0) for override in overrides}
    assert drawn(20, 0) == drawn(20, 0) != drawn(20, 1)
