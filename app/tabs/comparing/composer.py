"""Where one writes: the message box, its examples, and what is done with the conversation as a whole.

Builds components; handles nothing.
"""

from __future__ import annotations

import gradio as gr

from app.tabs.translations import word

# In the page's language first: an English page moves the last three to the front (page.css).
EXAMPLES = (
    "类型#上衣*材质#牛仔布*颜色#白色*风格#简约*图案#刺绣",
    "类型#裙*版型#宽松*风格#淑女*图案#字母*裙长#中长裙",
    "你好",
    "你是谁？",
    "什么是勾股定理？",
    "写一个 Python 例子",
    "Hello!",
    "What can you do?",
    "What is P-Tuning?",
)


class Composer:
    """The rows under the panes."""

    def __init__(self) -> None:
        with gr.Row(elem_id="composer"):
            self.message = gr.Textbox(
                placeholder=word("message_placeholder"),
                label=word("message"),
                show_label=False,
                container=False,
                lines=1,
                max_lines=6,
                scale=8,
                elem_id="message",
            )
            self.send = gr.Button(word("send"), variant="primary", scale=0, min_width=120, elem_id="send")
            self.stop = gr.Button(word("stop"), scale=0, min_width=120, visible=False, elem_id="stop")
        with gr.Row(elem_id="tools"):
            with gr.Row(elem_id="examples"):
                self.examples = [gr.Button(text, size="sm", min_width=0) for text in EXAMPLES]
            self.undo = gr.Button(word("undo"), size="sm", min_width=60, elem_id="undo")
            self.clear = gr.Button(word("clear"), size="sm", min_width=60, elem_id="clear")
            self.export = gr.Button(word("export"), size="sm", min_width=60, elem_id="export")
            self.to_conversations, _ = (
                gr.Button(word(name), size="sm", min_width=60, elem_id=f"to-{name}")
                for name in ("conversations", "looking")
            )
        with gr.Row(
            visible=False, elem_id="clear-question", elem_classes=["notice", "question"]
        ) as self.clear_question:
            gr.Markdown(word("clear_question"))
            self.clear_no = gr.Button(word("delete_no"), size="sm", scale=0, min_width=100, elem_id="clear-no")
            self.clear_yes = gr.Button(
                word("clear_yes"), variant="stop", size="sm", scale=0, min_width=100, elem_id="clear-yes"
            )
