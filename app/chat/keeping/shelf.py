"""The conversations that a browser has put away: named, listed, taken up again, deleted.

The one that is on the page is none of them. A shelf is a browser's own, so it is read with care and never grows beyond
what a browser stores; the server keeps nothing of it.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from app.chat.conversation import Conversation
from chatglm2.errors import ChatGLMError

# Browsers keep about 5 million characters a site. Encrypted, a byte takes one and a third, and the conversation on the
# page is kept beside the shelf; a request that carries both stays below the server's limit as well.
MOST_BYTES = 1_200_000
MOST_CONVERSATIONS = 50


class ShelfError(ChatGLMError):
    """A conversation that cannot be put away, or is not there."""


@dataclass
class Shelf:
    """Conversations that were put away, the last one first."""

    conversations: list[Conversation] = field(default_factory=list)

    def put(self, conversation: Conversation) -> None:
        """Puts a conversation in front; one in which nothing was said is let go.

        Raises:
            ShelfError: there is no room for it. Nothing has changed then.
        """
        if not conversation.rounds:
            return
        conversation.key = conversation.key or secrets.token_hex(6)
        others = [other for other in self.conversations if other.key != conversation.key]
        wanted = Shelf([conversation, *others])
        if len(wanted.conversations) > MOST_CONVERSATIONS or wanted.stored_bytes > MOST_BYTES:
            raise ShelfError(
                f"There is no more room: a browser keeps up to {MOST_CONVERSATIONS} conversations, and about "
                f"{MOST_BYTES // 1000:,} KB of them. Delete one that you do not need, or save it as a file first.",
                f"放不下了：浏览器最多保存 {MOST_CONVERSATIONS} 个会话，合计约 {MOST_BYTES // 1000:,} KB。"
                "请先删除不需要的会话，或把它存成文件。",
            )
        self.conversations = wanted.conversations

    def take(self, key: str) -> Conversation:
        """Takes a conversation off the shelf.

        Raises:
            ShelfError: it is not there, since another tab of this browser took or deleted it.
        """
        found = next((conversation for conversation in self.conversations if conversation.key == key), None)
        if found is None:
            raise ShelfError(
                "This conversation is not there any more: another tab of this browser has it, or deleted it. "
                "Reload the page to see those that are left.",
                "这个会话已不在列表中：可能已在此浏览器的另一个标签页中打开或删除。请刷新页面查看现有的会话。",
            )
        self.conversations.remove(found)
        return found

    @property
    def stored_bytes(self) -> int:
        """What a browser has to store, before it encrypts that."""
        return len(json.dumps(self.to_dict(), ensure_ascii=False).encode())

    def to_dict(self) -> dict[str, Any]:
        return {"conversations": [conversation.to_dict() for conversation in self.conversations]}

    @classmethod
    def from_dict(cls, data: Any) -> Shelf:
        """Reads :meth:`to_dict`'s data back; what is no conversation is left out, and the others stay."""
        stored = data.get("conversations") if isinstance(data, dict) else None
        found: dict[str, Conversation] = {}
        for entry in stored[:MOST_CONVERSATIONS] if isinstance(stored, list) else []:
            conversation = Conversation.from_dict(entry)
            if conversation.rounds and conversation.key:
                found.setdefault(conversation.key, conversation)
        return cls(list(found.values()))
