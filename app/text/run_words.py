"""The words for watching runs, beside those of `words.py`: key → (English, Chinese)."""

from __future__ import annotations

RUN_WORDS: dict[str, tuple[str, str]] = {
    # A run's own
    "run_details": ("Settings, name and note of this run", "本次训练的设置、名称和备注"),
    "copy_settings": ("Copy settings into the form", "把设置填入表单"),
    "copied_settings": (
        "The form has the settings of {run} now; nothing has started.",
        "表单已填入 {run} 的设置，尚未开始训练。",
    ),
    "data_of_run": ("Data of {run}: {file}", "{run} 的数据：{file}"),
    "rename_run": ("Rename", "改名"),
    "new_run_name": ("Name", "名称"),
    "renamed_run": ("The run is called {run} now.", "训练已改名为 {run}。"),
    "run_note": ("Note", "备注"),
    "run_note_hint": ("What you tried, and what came out.", "这次试了什么，结果如何。"),
    "save_note": ("Save note", "保存备注"),
    "note_saved": ("The note is saved.", "备注已保存。"),
    "delete_run": ("Delete run", "删除训练"),
    "own_settings": ("Not as usual", "与默认不同"),
    "all_settings": ("All settings ({count})", "全部设置（{count}）"),
    "created_at": ("Created {time}", "创建于 {time}"),
    "setting_yes": ("yes", "是"),
    "setting_no": ("no", "否"),
    # Validation
    "loss_validated": ("{loss}, validation", "{loss}（验证）"),
    "loss_of_batch": ("{loss}, one batch", "{loss}（单批）"),
    # Pinned prompts
    "pinned": ("Pinned prompts, answered at every checkpoint", "固定的提示：每个检查点都会回答"),
    "pinned_step": ("Answers of", "查看"),
    "pinned_prompts": ("Pinned prompts", "固定的提示"),
    "pinned_help": (
        "One a line, at most five; write \\n for a line break. What you change is asked from the next checkpoint on.",
        "每行一条，最多五条；换行请写 \\n。修改后从下一个检查点起生效。",
    ),
    "pin": ("Pin", "固定"),
    "pinned_saved": ("Asked from the next checkpoint on.", "从下一个检查点起回答。"),
    "pinned_later": ("Nothing answered yet; that happens at every checkpoint.", "暂无回答，每个检查点都会回答。"),
    "pinned_base": ("Base model", "原模型"),
    "pinned_tuned": ("With the prefix trained so far", "训练到此时"),
}
