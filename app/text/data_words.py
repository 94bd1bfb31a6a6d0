"""The words of the data doctor, beside those of `words.py`: key → (English, Chinese)."""

from __future__ import annotations

DATA_WORDS: dict[str, tuple[str, str]] = {
    # What is wrong
    "data_healthy": ("Nothing is wrong with {file}.", "{file} 没有发现问题。"),
    "data_problems": ("{file}: look at this before you train", "{file}：训练前请先看看这些问题"),
    "data_limits": ("Nothing would be cut at: {limits}.", "不会截断任何内容的限制：{limits}。"),
    # Fixes
    "drop_duplicates": ("Leave repeated rows out", "去掉重复的行"),
    "drop_empty": ("Leave empty rows out", "去掉空行"),
    "set_limits": ("Set limits that cut nothing", "改用不截断的限制"),
    "split_data": ("Split off validation data", "划分验证数据"),
    "mended": (
        "{file} is chosen now: without these rows. Your own file is as it was.",
        "已改用 {file}，其中不含这些行；原文件未改动。",
    ),
    "limits_set": ("The limits cut nothing now.", "长度限制已调整，不会截断任何内容。"),
    "data_split": (
        "{train} is trained on, {dev} is validated on. Rows that ask the same stayed together.",
        "用 {train} 训练，用 {dev} 验证；提问相同的行没有分开。",
    ),
    # Rows
    "search_data": ("Search rows, or a line's number", "搜索内容或行号"),
    "data_found": ("{found} found · page {page} of {pages}", "{found} 条 · 第 {page} / {pages} 页"),
    "data_none_found": ("No row holds this.", "没有符合的行。"),
    "previous_rows": ("Previous", "上一页"),
    "next_rows": ("Next", "下一页"),
    "show_row": ("Show {place} as the model sees it", "查看{place}在训练中的样子"),
    "row_rendered": ("{place} in training", "训练中的{place}"),
    "row_learnt": ("learnt", "要学的部分"),
    "row_given": ("given", "给出的部分"),
    "row_rest": ("cut from the answer", "被截去的回答"),
    "row_cut_prompt": ("{count} tokens of the prompt are cut.", "提示被截去 {count} 个 token。"),
    "row_cut_answer": ("{count} tokens of the answer are cut.", "回答被截去 {count} 个 token。"),
}
