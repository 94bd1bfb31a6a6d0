"""Replies are hostile text: what is shown must be whole, and must not act, load or cover anything."""

from __future__ import annotations

from datetime import datetime
from html.parser import HTMLParser

import pytest

from app.chat.conversation import Answer, Conversation
from app.text.languages import Speech
from app.views.export import export_page
from app.views.rendering import (
    MATHML_TAGS,
    PROSE_TAGS,
    question_from_markdown,
    question_markdown,
    reply_html,
    reply_markdown,
    segments,
)

MIXED = """价格 $5 到 $6，a<b and c>d。

行内 \\(E=mc^2\\) 和 `x<y $$`

$$\\frac{a}{b} < c$$

```python
print("a<b", "$x$")

x = 1
```
"""
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<iframe src='https://evil.example'></iframe>",
    "<svg><style>*{display:none}</style></svg>",
    "<math><mtext href='javascript:alert(1)'>x</mtext></math>",
    "[x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "```html\n<script>alert(1)</script>\n```",
    "\\(\\href{javascript:alert(1)}{x}\\)",
    '<div style="position:fixed;inset:0">cover</div>',
)


def test_segments_lose_nothing() -> None:
    pieces = segments(MIXED)
    assert "".join(piece for _, piece in pieces) == MIXED
    assert [kind for kind, _ in pieces if kind != "text"] == ["math", "code", "math", "fence"]


def test_an_unclosed_fence_is_code_to_the_end() -> None:
    assert segments("a\n```\n<b> $$x$$")[-1] == ("fence", "```\n<b> $$x$$")


def test_comparisons_in_prose_survive() -> None:
    assert "a&lt;b and c>d" in reply_markdown(MIXED)
    assert "a&lt;b and c&gt;d" in reply_html(MIXED)


def test_code_and_math_reach_the_browser_unescaped() -> None:
    shown = reply_markdown(MIXED)
    assert 'print("a<b", "$x$")' in shown
    assert "$$\\frac{a}{b} < c$$" in shown


def test_exported_math_is_mathml_and_money_is_not_math() -> None:
    page = reply_html(MIXED)
    assert page.count("<math") == 2
    assert "<mfrac>" in page
    assert "价格 $5 到 $6" in page


def test_a_lone_tilde_does_not_strike_text_out() -> None:
    assert "~" not in reply_markdown("好看~显瘦~")
    assert "~~gone~~" in reply_markdown("~~gone~~")


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_an_exported_reply_acts_or_loads(text: str) -> None:
    for tag, attributes in Tags(reply_html(text)).found:
        assert tag in PROSE_TAGS | MATHML_TAGS
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset")]
        assert (attributes.get("href") or "https:").startswith(("https:", "http:", "mailto:"))
        assert tag == "a" or "href" not in attributes


@pytest.mark.parametrize(
    "text", ["类型#上衣*材质#牛仔布*颜色#白色", "1. a\n2. *b*", "$$x$$ & <b> &lt; \\(y\\)", "# 标题"]
)
def test_a_question_is_shown_as_typed_and_comes_back_whole(text: str) -> None:
    shown = question_markdown(text)
    assert not set(shown.replace("&#", "").replace(";", "")) & set("*`$<\\[]_")
    assert question_from_markdown(shown) == text


def test_a_reply_that_breaks_the_converter_is_shown_as_text() -> None:
    text = "\\(x\\) " * 2000
    assert "\\(x\\)" in reply_html(text)


def test_an_exported_page_stands_alone_and_says_who_answered() -> None:
    conversation = Conversation()
    entry = conversation.ask("<你好> & \\(x\\)")
    entry.answers["left"] = Answer("plain", source="base · demo", seed=1, tokens=3, seconds=1.0, finish_reason="stop")
    entry.answers["right"] = Answer("$$x^2$$", source="run · step 40", seed=1, tokens=3, finish_reason="stop")
    page = export_page(
        conversation,
        settings={"温度": "0.8"},
        model_name="demo",
        now=datetime(2025, 1, 2, 3, 4),
        stylesheet="body{}",
        speech=Speech("zh"),
    )
    assert "<msup>" in page and "run · step 40" in page and "2025-01-02 03:04" in page and "温度" in page
    assert "&lt;你好&gt; &amp;" in page
    assert "<script" not in page and "src=" not in page and "<link" not in page
    assert 'lang="zh-CN"' in page


@pytest.mark.parametrize(
    "reply",
    [
        "```mermaid\ngraph TD; A-->B\n```",
        "- a\n\n  ```mermaid\n  graph TD; A-->B\n  ```",
        "> ```mermaid\n> graph TD; A-->B\n> ```",
        "a ```mermaid\nb\n```",
    ],
)
def test_a_diagram_is_shown_as_code(reply: str) -> None:
    assert "```mermaid" not in reply_markdown(reply)
    assert "graph TD" in reply_markdown(reply) or "b" in reply_markdown(reply)


@pytest.mark.parametrize("reply", ['$$<div class="mermaid">a</div>$$', '\\`<div class="mermaid">a</div>\\`'])
def test_no_element_gets_through_where_markdown_sees_no_code(reply: str) -> None:
    assert "<div" not in reply_markdown(reply)
