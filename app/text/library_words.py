"""The words of the library of prefixes: key → (English, Chinese). `words.py` takes them in."""

from __future__ import annotations

LIBRARY_WORDS: dict[str, tuple[str, str]] = {
    # Finding
    "find_prefix": ("Find a prefix", "查找前缀"),
    "find_prefix_help": (
        "Words of its name, tags, notes, run or data.",
        "可搜名称、标签、备注、训练记录和数据文件。",
    ),
    "with_tags": ("With these tags", "带有标签"),
    "with_tags_help": ("All of them.", "须同时带有所选标签。"),
    "nothing_found": ("No prefix has all of this.", "没有符合条件的前缀。"),
    # A card
    "action_card": ("Card", "卡片"),
    "card_title": ("Card of {name}", "{name} 的卡片"),
    "card_name": ("Name", "名称"),
    "card_name_help": ("What Compare's menus call it.", "显示在“对比”页的菜单里。"),
    "card_tags": ("Tags", "标签"),
    "card_tags_help": ("Separated by commas.", "用逗号分隔。"),
    "card_license": ("Licence", "许可"),
    "card_license_help": ("Such as mit or apache-2.0, or your own words.", "例如 mit、apache-2.0，或自行填写。"),
    "card_notes": ("Notes", "备注"),
    "card_notes_help": ("Markdown; shown on a hub, too.", "可用 Markdown，上传后也会显示在模型库中。"),
    "card_save": ("Save the card", "保存卡片"),
    "card_close": ("Close", "关闭"),
    "card_saved": ("The card of {name} is saved.", "{name} 的卡片已保存。"),
    "card_broken": ("Its card cannot be read", "卡片无法读取"),
    "fact_base_model": ("Base model", "基座模型"),
    "fact_base_fingerprint": ("Base weights", "基座权重"),
    "fact_prefix_tokens": ("Prefix tokens", "前缀长度"),
    "fact_data_file": ("Data", "数据"),
    "fact_data_rows": ("Rows", "行数"),
    "fact_step": ("Steps", "步数"),
    "fact_loss": ("Loss", "损失"),
    "fact_validation_loss": ("Validation loss", "验证损失"),
    "fact_rouge_l": ("ROUGE-L", "ROUGE-L"),
    "fact_bleu_4": ("BLEU-4", "BLEU-4"),
    "fact_evaluated_on": ("Evaluated on", "评估数据"),
    "fact_kept": ("General answers kept", "通用回答保留"),
    "fact_strength": ("Proposed strength", "建议强度"),
    "fact_created": ("Trained", "训练时间"),
    "fact_origin": ("From", "来源"),
    "taken_from_hub": ("{name} on {hub}, {revision}", "{hub} 上的 {name}，{revision}"),
    "taken_from_zip": ("the zip {name}", "压缩包 {name}"),
    # From elsewhere
    "pull_name": ("Take a prefix from a hub", "从模型库取用前缀"),
    "pull_name_help": (
        "owner/name on Hugging Face. Only the prefix's own files come, and they are checked.",
        "Hugging Face 上的“所有者/名称”。只下载前缀自身的文件，并会检查。",
    ),
    "pull": ("Pull from hub", "从模型库下载"),
    "take_zip": ("Import a zip", "导入 zip"),
    "taken": ("{name} is in the list now.", "{name} 已加入列表。"),
}
