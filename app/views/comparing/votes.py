"""Who won how many blind votes."""

from __future__ import annotations

from markupsafe import Markup

from app.chat.judging.votes import Standing, Tally
from app.chat.sources import BASE
from app.text.languages import Speech
from app.views.markup import render


def votes_html(tally: Tally, speech: Speech) -> Markup:
    """A row for everybody who was voted on; nothing where nobody was."""
    return render("votes", rows=[_row(standing, speech) for standing in tally.standings()], word=speech)


def name_of(who: str, speech: Speech) -> str:
    return speech("base_choice") if who == BASE else who


def _row(standing: Standing, speech: Speech) -> dict[str, object]:
    rate, interval = standing.rate, standing.interval
    return {
        "who": name_of(standing.who, speech),
        "against": ", ".join(name_of(who, speech) for who in standing.against),
        "counts": f"{standing.won} / {standing.lost} / {standing.ties}",
        "rate": f"{rate:.0%}" if rate is not None else "—",
        "interval": f"{interval[0]:.0%}–{interval[1]:.0%}" if interval is not None else "",
    }
