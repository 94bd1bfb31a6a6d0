"""Several runs' curves in one figure each, and a table of what their settings differ in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from markupsafe import Markup

from app.text.languages import Speech
from app.training.care import Difference
from app.training.run_view import Measurement, RunView
from app.views.charts import Names, Point, overlaid_chart
from app.views.markup import render
from app.views.watching.settings import setting_text

Measured = Callable[[RunView], Sequence[Measurement]]
# What is drawn, by its word; and whether a moving mean of it is.
CURVES: Mapping[str, tuple[Measured, bool]] = MappingProxyType(
    {
        "loss": (lambda view: view.losses, True),
        "overlay_validation": (lambda view: view.validation, False),
        "kept_axis": (lambda view: view.kept, False),
        "learning_rate": (lambda view: view.learning_rates, False),
        "gradient_norm": (lambda view: view.gradient_norms, True),
        "tokens_per_second": (lambda view: view.speeds, True),
    }
)


def overlaid_html(views: Sequence[RunView], differences: Sequence[Difference], speech: Speech) -> Markup:
    """The first run is the one that is looked at; what nobody measured is not drawn."""
    figures = []
    for name, (measured, smooth) in CURVES.items():
        curves = [[Point(item.step, item.value) for item in measured(view)] for view in views]
        if any(curves):
            names = Names(across=speech("step_axis"), up=speech(name))
            figures.append((speech(name), overlaid_chart(curves, speech(name), names=names, smooth=smooth)))
    return render(
        "overlaid",
        runs=[view.name for view in views],
        figures=figures,
        title=speech("overlay_differences"),
        setting=speech("overlay_setting"),
        rows=[
            (speech.pick(*item.label), [setting_text(item, value, speech) for value in values])
            for item, values in differences
        ],
        alike=speech("overlay_alike"),
    )
