"""Replies become what a browser may show: Markdown for the chat, safe HTML with MathML for exported pages.

Pure text in, text out. A reply is written by a model that was trained on anybody's data, so it is treated as hostile.
"""

from __future__ import annotations

import html
import re

import mdtex2html
import nh3
from markupsafe import Markup

# Where Markdown's rules stop: code, then math. A bare `$` is money, not math. An unclosed fence is still code.
PROTECTED = re.compile(
    r"(?P<fence>^```.*?(?:^```[ \t]*$|\Z))"
    r"|(?P<code>(?<![`\\])(?P<ticks>`+)(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<math>\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\))",
    re.MULTILINE | re.DOTALL,
)
TAG_START = re.compile(r"<(?=[A-Za-z/!?])")
LONE_TILDE = re.compile(r"(?<!~)~(?!~)")
LATEX_DELIMITERS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
# Characters that Markdown or LaTeX could act on. A question is shown as typed: "类型#上衣*材质#牛仔布" has no emphasis.
ACTIVE = re.compile(r"[\\`*_{}\[\]()<>#+\-.!|~$&:^=]")
ESCAPED = re.compile(r"&#(\d{2,3});")

MATHML_TAGS = {
    *("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup"),
    *("munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose"),
}
MATHML_ATTRIBUTES = {
    *("display", "mathvariant", "stretchy", "fence", "separator", "accent", "accentunder", "columnalign", "rowspacing"),
    *(
        "columnspacing",
        "linethickness",
        "displaystyle",
        "scriptlevel",
        "minsize",
        "maxsize",
        "width",
        "height",
        "depth",
    ),
    *("lspace", "rspace", "form", "movablelimits", "largeop", "symmetric", "notation"),
}
PROSE_TAGS = {
    *("p", "br", "hr", "em", "strong", "del", "code", "pre", "blockquote", "ul", "ol", "li", "div", "span", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "sub", "sup"),
}


def segments(text: str) -> list[tuple[str, str]]:
    """Cuts a reply into ("text" | "fence" | "code" | "math", piece), in order; joined, the pieces are the reply."""
    pieces: list[tuple[str, str]] = []
    end = 0
    for match in PROTECTED.finditer(text):
        if match.start() > end:
            pieces.append(("text", text[end : match.start()]))
        kind = next(name for name in ("fence", "code", "math") if match.group(name) is not None)
        pieces.append((kind, match.group()))
        end = match.end()
    if end < len(text):
        pieces.append(("text", text[end:]))
    return pieces


def escape_prose(text: str) -> str:
    """Makes HTML in prose visible instead of active, and images links: ``a<b and c>d`` stays whole, nothing is fetched.

    A single ``~`` is a lilt in Chinese, which Markdown in the browser would take for the start of struck-out text.
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("![", "&#33;[")
    return LONE_TILDE.sub("&#126;", text)


def reply_markdown(text: str) -> str:
    """A reply for the chat, whose Markdown and KaTeX render it in the browser."""
    shown = {"text": escape_prose, "math": _inert_math}
    marked = "".join(shown.get(kind, str)(piece) for kind, piece in segments(text))
    # The chat would draw such code, which anybody can make take a browser's whole time; shown as code it does nothing.
    return marked.replace("```mermaid", "``` mermaid")


def _inert_math(piece: str) -> str:
    """Math is put into the page as it is: an element in it would be one of the page's."""
    return TAG_START.sub("&lt;", piece)


def question_markdown(text: str) -> str:
    """A question for the chat: shown as typed, whatever Markdown would make of it."""
    return ACTIVE.sub(lambda match: f"&#{ord(match.group())};", text)


def question_from_markdown(text: str) -> str:
    """What :func:`question_markdown` was given; entities that a person typed stay as typed."""
    return ESCAPED.sub(lambda match: chr(int(match.group(1))), text)


def reply_html(text: str) -> Markup:
    """A reply as HTML that stands alone: LaTeX as MathML, no scripts, no images, no frames, no styles.

    A reply that the converter chokes on (it recurses a level a formula) is shown as plain text.
    """
    prepared = "".join(
        escape_prose(piece).replace("$", "&#36;") if kind == "text" else piece for kind, piece in segments(text)
    )
    try:
        converted = mdtex2html.convert(
            prepared, extensions=["fenced_code", "tables", "nl2br", "sane_lists"], splitParagraphs=False
        )
    except Exception:
        # The converter and its parsers raise whatever their parts do; the text itself is what must not be lost.
        converted = f"<pre>{html.escape(text)}</pre>"
    return sanitize(converted)


def sanitize(fragment: str) -> Markup:
    """Keeps prose and MathML, drops everything that acts, loads or covers. MathML elements keep no links."""
    attributes = {tag: set(MATHML_ATTRIBUTES) for tag in MATHML_TAGS}
    attributes["math"] |= {"xmlns"}
    attributes |= {
        "a": {"href"},
        "th": {"align"},
        "td": {"align"},
        "code": {"class"},
        "div": {"class"},
        "ol": {"start"},
    }
    clean = nh3.clean(
        fragment,
        tags=PROSE_TAGS | MATHML_TAGS,
        attributes=attributes,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )
    return Markup(clean)
