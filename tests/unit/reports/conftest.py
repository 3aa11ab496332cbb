"""What the tests of pictures share."""

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def unreadable(figure: Figure) -> list[str]:
    """The texts of a figure that its edge cuts off, or that are printed over others."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = set()  # labels of ticks beyond the axes, which are not drawn
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    texts = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip() and one not in hidden]
    boxes = [(one.get_text(), one.get_window_extent(canvas.get_renderer())) for one in texts]
    width, height = canvas.get_width_height()
    cut = [text for text, box in boxes if min(box.x0, box.y0) < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    over = [f"{one} / {other}" for (one, a), (other, b) in combinations(boxes, 2) if a.shrunk(0.9, 0.9).overlaps(b)]
    return cut + over


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
