"""What the tests of pictures share."""

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, each as it is when it is."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: object, **settings: object) -> None:
        figures.append(self)
        save(self, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures
