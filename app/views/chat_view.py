"""What a pane shows of a conversation, and what its menu offers. Pure: data in, Gradio's plain message data out."""

from __future__ import annotations

from app.chat.conversation import Conversation
from app.chat.sources import Source
from app.text.languages import Speech
from app.views.rendering import question_markdown, reply_markdown

# The browser renders again what it is sent; of a very long conversation the last rounds are enough.
SHOWN_ROUNDS = 40


def shown_messages(conversation: Conversation, pane: str, speech: Speech) -> list[dict[str, str]]:
    """What a pane shows: the last rounds, questions as typed, replies as Markdown, failures as sentences."""
    hidden = max(0, len(conversation.rounds) - SHOWN_ROUNDS)
    messages = []
    if hidden:
        messages.append({"role": "assistant", "content": f"*{speech('earlier_rounds', count=hidden)}*"})
    for entry in conversation.rounds[hidden:]:
        answer = entry.answers[pane]
        messages.append({"role": "user", "content": question_markdown(entry.question)})
        if answer.error:
            messages.append({"role": "assistant", "content": f"⚠️ {question_markdown(answer.error)}"})
        elif answer.text or conversation.streaming:
            messages.append({"role": "assistant", "content": reply_markdown(answer.text) or "…"})
    return messages


def round_index(conversation: Conversation, message_index: int) -> int:
    """Which round a message of a pane belongs to; counted from the end, since failed rounds show fewer messages."""
    hidden = max(0, len(conversation.rounds) - SHOWN_ROUNDS)
    offset = 1 if hidden else 0
    return min(hidden + (message_index - offset) // 2, len(conversation.rounds) - 1)


def menu(sources: list[Source], speech: Speech) -> list[tuple[str, str]]:
    """The panes' choices: base first, then checkpoints, the newest marked."""
    entries = []
    newest = next((source for source in sources if not source.is_base), None)
    for source in sources:
        label = speech("base_choice") if source.is_base else source.name
        if source is newest:
            label = f"{label} ({speech('newest')})"
        entries.append((label, source.key))
    return entries
