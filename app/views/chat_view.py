"""What a pane shows: who answers, the conversation and its facts, and what its menu offers.

Pure: data in, escaped HTML or Gradio's plain message data out.
"""

from __future__ import annotations

import html

from markupsafe import Markup

from app.chat.conversation import INTERRUPTED, PANES, Answer, Conversation, Round
from app.chat.following import NEWEST, can_follow
from app.chat.judging.differences import differences
from app.chat.mixing import strengths_text
from app.chat.sources import LoadedSource, Source, who_answers
from app.text.languages import Speech
from app.views.markup import render
from app.views.rendering import question_markdown, reply_markdown

# The browser renders again what it is sent; of a very long conversation the last rounds are enough.
SHOWN_ROUNDS = 40


def shown_messages(conversation: Conversation, pane: str, speech: Speech) -> list[dict[str, str]]:
    """What a pane shows: the last rounds, questions as typed, replies as Markdown, failures as sentences."""
    hidden = max(0, len(conversation.rounds) - SHOWN_ROUNDS)
    messages = []
    if hidden:
        messages.append({"role": "assistant", "content": f"*{speech('earlier_rounds', count=hidden)}*"})
    for index, entry in enumerate(conversation.rounds[hidden:], hidden):
        answer = entry.answers[entry.side(pane)]
        messages.append({"role": "user", "content": question_markdown(entry.question)})
        if answer.error:
            messages.append({"role": "assistant", "content": f"⚠️ {question_markdown(answer.error)}"})
        elif answer.text or conversation.streaming:
            content = _answer_markdown(conversation, entry, entry.side(pane)) or waiting_mark(answer, speech)
            mark = "" if conversation.hides(index) else source_mark(_source(answer, speech))
            messages.append({"role": "assistant", "content": f"{mark}{content}"})
        elif answer.finish_reason == INTERRUPTED:
            messages.append({"role": "assistant", "content": "…"})
    return messages


def _answer_markdown(conversation: Conversation, entry: Round, pane: str) -> str:
    """A reply for the chat; beside one that can be compared, on request, as plain text with what differs marked."""
    answer, (left, right) = entry.answers[pane], (entry.answers[name] for name in PANES)
    ended = all(one.text and one.finish_reason and not one.error for one in (left, right))
    if not (conversation.view.differences and ended):
        return reply_markdown(answer.text)
    pieces = differences(left.text, right.text)[PANES.index(pane)]
    marked = ("<mark>{}</mark>" if differs else "{}" for _, differs in pieces)
    shown = (question_markdown(piece).replace("\n", "<br>") for piece, _ in pieces)
    return (
        f'<div class="differing">{"".join(form.format(piece) for form, piece in zip(marked, shown, strict=True))}</div>'
    )


def _source(answer: Answer, speech: Speech) -> str:
    """Who gave an answer, and what a reader made of it."""
    judged = [speech(name) for name in ("edited", "liked") if getattr(answer, name)]
    return " · ".join([*([answer.source] if answer.source else []), *judged])


def source_mark(source: str) -> str:
    """Who gave an answer, above it: an attribute that the stylesheet shows, no part of the reply's text."""
    return f'<div class="answer-source" title="{html.escape(source)}"></div>\n\n' if source else ""


def waiting_mark(answer: Answer, speech: Speech) -> str:
    """In the place of a reply that has not begun: dots, and what it waits for if others are before it."""
    if not answer.place_in_line:
        return "…"
    ahead = answer.place_in_line - 1
    sentence = speech("waits_behind", count=ahead) if ahead else speech("waits_next")
    return f'<div class="waiting" role="status">… {html.escape(sentence)}</div>'


def round_index(conversation: Conversation, message_index: int) -> int:
    """Which round a message of a pane belongs to; counted from the end, since failed rounds show fewer messages."""
    hidden = max(0, len(conversation.rounds) - SHOWN_ROUNDS)
    offset = 1 if hidden else 0
    return min(hidden + (message_index - offset) // 2, len(conversation.rounds) - 1)


def menu(sources: list[Source], speech: Speech) -> list[tuple[str, str]]:
    """The panes' choices: base first, then what follows the training, then checkpoints, the newest marked."""
    entries = []
    newest = next((source for source in sources if not source.is_base), None)
    for source in sources:
        label = speech("base_choice") if source.is_base else source.name
        if source is newest:
            label = f"{label} ({speech('newest')})"
        entries.append((label, source.key))
        if source.is_base and can_follow(sources):
            entries.append((speech("follow_newest"), NEWEST))
    return entries


def chip_html(loaded: LoadedSource, model_name: str, speech: Speech, hint: str = "") -> Markup:
    """Who answers in a pane, and whether its prefix changes anything; ``hint`` is for where there is no prefix."""
    note, help_text = hint, ""
    if loaded.prefix is not None:
        known = "prefix_effect" if loaded.has_effect else "prefix_no_effect"
        note = speech(known)
        help_text = speech("prefix_effect_help", change=f"{loaded.max_logit_change:.1f}")
    return render(
        "pane_head",
        kind="base" if loaded.source.is_base else "tuned",
        name=who_answers(loaded, model_name, speech),
        note=note,
        help=help_text,
        warn=not loaded.has_effect,
        caution=speech.pick(*loaded.note) if loaded.note is not None else "",
    )


def failed_chip_html(sentence: str) -> Markup:
    """In the place of a chip: why the pane's checkpoint cannot be read."""
    return render("pane_head_failed", sentence=sentence)


def facts_html(conversation: Conversation, pane: str, speech: Speech) -> Markup:
    """The line under a pane: about its last answer, unless that would tell a voter whose it is."""
    if not conversation.rounds:
        return render("pane_facts", facts="")
    entry = conversation.rounds[-1]
    hidden = conversation.hides(len(conversation.rounds) - 1)
    facts = speech("hidden_until_vote") if hidden else answer_facts(entry.answers[entry.side(pane)], speech)
    return render("pane_facts", facts=facts)


def notice_html(sentence: str) -> Markup:
    """A sentence in the place of that line."""
    return render("pane_facts", facts=sentence)


def answer_facts(answer: Answer, speech: Speech) -> str:
    """Tokens, speed, seed and what a reader should know about how an answer ended."""
    if answer.error or not answer.finish_reason:
        return ""
    if answer.finish_reason == INTERRUPTED:
        return speech("finish_interrupted")
    facts = [speech("tokens", count=answer.tokens), speech("speed", speed=f"{answer.tokens_per_second:.1f}")]
    if answer.seed is not None:
        facts.append(speech("seed_was", seed=answer.seed))
    if strengths := strengths_text(answer.strengths, speech):
        facts.append(strengths)
    if answer.finish_reason in ("length", "cancelled"):
        facts.append(speech(f"finish_{answer.finish_reason}"))
    if answer.stands_alone:
        facts.append(speech("stood_alone"))
    if answer.dropped_rounds:
        facts.append(speech("dropped_rounds", count=answer.dropped_rounds))
    return " · ".join(facts)
