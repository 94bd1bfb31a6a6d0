"""A prefix's card as the page shows it: what people wrote, the facts, and where it came from.

Pure: a card in, escaped HTML out.
"""

from __future__ import annotations

from markupsafe import Markup

from app.library.service import Shown
from app.text.languages import Speech
from app.views.markup import format_time, render
from chatglm2.checkpoints.hub import HUB_TITLES
from training.library.card import Card
from training.library.entry import Origin

HASH_DIGITS = 12


def card_html(shown: Shown, speech: Speech, *, with_texts: bool) -> Markup:
    """The card.

    Args:
        shown: the prefix, its card, and what is known of it.
        speech: the reader's.
        with_texts: tags, licence and notes, too: for who cannot see them in the form beside.
    """
    problem = shown.entry.problem
    return render(
        "prefix_card",
        title=speech("card_title", name=shown.source.name),
        place=shown.source.key,
        facts=_facts(shown.card, shown.entry.origin, speech),
        tags=shown.card.tags if with_texts else (),
        license=shown.card.license if with_texts else "",
        license_title=speech("card_license"),
        notes=shown.card.notes if with_texts else "",
        problem=problem.localized(speech.language) if problem is not None else "",
        caution=speech.pick(*shown.caution) if shown.caution is not None else "",
    )


def _facts(card: Card, origin: Origin | None, speech: Speech) -> list[tuple[str, str]]:
    facts = card.facts
    projection = f" · {speech('with_projection')}" if facts.projection else ""
    rows = f" ({speech('data_counts', rows=facts.evaluated_rows)})" if facts.evaluated_rows else ""
    values = {
        "base_model": facts.base_model,
        "base_fingerprint": facts.base_fingerprint[:HASH_DIGITS],
        "prefix_tokens": f"{facts.prefix_tokens}{projection}" if facts.prefix_tokens else "",
        "data_file": facts.data_file,
        "data_rows": _number(facts.data_rows, 0),
        "step": _number(facts.step, 0),
        "loss": _number(facts.loss, 4),
        "validation_loss": _number(facts.validation_loss, 4),
        "rouge_l": _number(facts.rouge_l, 2),
        "bleu_4": _number(facts.bleu_4, 2),
        "evaluated_on": f"{facts.evaluated_on}{rows}" if facts.evaluated_on else "",
        "kept": f"{facts.kept:.0f} %" if facts.kept is not None else "",
        "strength": _number(facts.strength, 2),
        "created": format_time(facts.created) if facts.created is not None else "",
        "origin": _origin(origin, speech),
    }
    return [(speech(f"fact_{name}"), value) for name, value in values.items() if value]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _origin(origin: Origin | None, speech: Speech) -> str:
    if origin is None:
        return ""
    taken = f" ({format_time(origin.taken_at)})" if origin.taken_at is not None else ""
    if origin.kind == "zip":
        return speech("taken_from_zip", name=origin.name) + taken
    hub = next((title for name, title in HUB_TITLES.items() if name == origin.hub), origin.hub)
    return speech("taken_from_hub", name=origin.name, hub=hub, revision=origin.revision[:HASH_DIGITS] or "main") + taken
