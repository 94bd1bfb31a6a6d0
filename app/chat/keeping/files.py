"""A conversation as a file: JSON for programs, Markdown for people, and either of them read back to the letter.

Markdown is a page that one reads. What a reader does not see, comments, says where each text begins and ends and how it
came about, so that nothing is guessed when it is read back. A line of a text that looks like such a comment is escaped
with a backslash, as Markdown does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from app.chat.conversation import PANES, Answer, Conversation, Round
from chatglm2.errors import ChatGLMError

FORMAT = "chatglm2 conversation"
MOST_BYTES = 1_000_000  # as much as a browser keeps of one
MARK = "<!-- chatglm2: "
END_OF_TEXT = '{"end": true}'
MARKED = re.compile(r"<!-- chatglm2: (?P<facts>.*) -->")
LOOKS_MARKED = re.compile(r"\\*<!-- chatglm2: ")
NO_FENCE = "`" * 3


class ConversationFileError(ChatGLMError):
    """A file that holds no conversation."""


class _File(BaseModel):
    format: Literal["chatglm2 conversation"]
    name: str = ""
    rounds: list[Round]


def to_json(conversation: Conversation) -> str:
    """All of it, with who gave each answer, at which strength and from which seed."""
    content = {"format": FORMAT, "name": conversation.title, "rounds": [asdict(entry) for entry in conversation.rounds]}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def to_markdown(conversation: Conversation, facts: Callable[[Answer], str]) -> str:
    """All of it as a page; ``facts`` says what a reader wants to know about an answer."""
    lines = [_mark({"format": FORMAT, "name": conversation.title}), f"# {_on_one_line(conversation.title)}", ""]
    for number, entry in enumerate(conversation.rounds, 1):
        fence = _fence_for(entry.question)
        beside = {**asdict(entry), "question": "", "answers": {}}
        lines += [f"## {number}", "", *_text(beside, [fence, *entry.question.split("\n"), fence]), ""]
        for pane in PANES:
            answer = entry.answers[pane]
            lines += [f"### {_on_one_line(answer.source) or pane}", ""]
            lines += [*_text({"pane": pane, **asdict(answer), "text": ""}, answer.text.split("\n")), ""]
            lines += [f"*{_on_one_line(facts(answer))}*", ""] if facts(answer) else []
    return "\n".join(lines)


def read_conversation(content: str) -> Conversation:
    """A conversation from a file's text, JSON or Markdown.

    Raises:
        ConversationFileError: it is no such file, or too large.
    """
    if len(content.encode(errors="replace")) > MOST_BYTES:
        raise ConversationFileError(
            f"The file is too large for a browser to keep: expected at most {MOST_BYTES // 1000:,} KB.",
            f"文件太大，浏览器存不下：应不超过 {MOST_BYTES // 1000:,} KB。",
        )
    try:
        content = content.removeprefix("\ufeff")
        if content.lstrip().startswith("{"):
            found = _File.model_validate_json(content)
        else:
            found = _File.model_validate(_parse_markdown(content))
    except (ValueError, LookupError, TypeError) as error:
        raise _not_ours() from error
    if not found.rounds or any(set(entry.answers) != set(PANES) for entry in found.rounds):
        raise _not_ours()
    conversation = Conversation(found.rounds, begun=True)
    conversation.rename(found.name)
    return conversation


def _not_ours() -> ConversationFileError:
    return ConversationFileError(
        "There is no conversation in this file. Choose a JSON or Markdown file that was saved here, with the comments "
        "that are in it.",
        "这个文件中没有会话。请选择由本页面保存的 JSON 或 Markdown 文件（其中的注释要保留）。",
    )


def _parse_markdown(content: str) -> dict[str, Any]:
    """The same data as in a JSON file."""
    found: dict[str, Any] = {"rounds": []}
    lines = content.split("\n")
    if lines[0].endswith("\r"):  # an editor of another system saved it
        lines = content.replace("\r\n", "\n").split("\n")
    for facts, text in _marked_texts(lines):
        if "format" in facts:
            found |= facts
        elif "pane" in facts:
            found["rounds"][-1]["answers"][facts["pane"]] = {**facts, "text": "\n".join(text)}
        elif "question" in facts:
            found["rounds"].append({**facts, "question": "\n".join(text[1:-1]), "answers": {}})
    if not found["rounds"]:
        raise ValueError("no question was found")
    return found


def _marked_texts(lines: list[str]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """(what a comment says, the lines of the text behind it), one for each that is no end."""
    facts: dict[str, Any] | None = None
    text: list[str] = []
    for line in lines:
        match = MARKED.fullmatch(line)
        if match is None:
            text.append(line[1:] if line.startswith("\\") and LOOKS_MARKED.match(line) else line)
            continue
        said = _FACTS.validate_json(match["facts"])
        if "format" in said:
            yield said, []
        elif "end" in said and facts is not None:
            yield facts, text
            facts = None
        else:
            facts, text = said, []


def _text(facts: dict[str, Any], lines: list[str]) -> list[str]:
    escaped = [f"\\{line}" if LOOKS_MARKED.match(line) else line for line in lines]
    return [_mark(facts), *escaped, f"{MARK}{END_OF_TEXT} -->"]


def _mark(facts: dict[str, Any]) -> str:
    """A comment ends at the first ``-->``, whatever it says before."""
    said = json.dumps(facts, ensure_ascii=False).replace(">", "\\u003e").replace("--", "-\\u002d")
    return f"{MARK}{said} -->"


def _fence_for(text: str) -> str:
    """Longer than any in the text, so that it is shown as typed."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(len(NO_FENCE), longest + 1)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


_FACTS = TypeAdapter(dict[str, Any])
