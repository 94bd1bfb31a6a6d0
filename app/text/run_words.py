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
    "overlay": ("Beside other runs", "与其他训练对比"),
    "overlay_others": ("Other runs", "其他训练"),
    "overlay_help": ("At most five; their curves are drawn with this run's.", "最多五个，曲线与本次训练画在一起。"),
    "overlay_validation": ("Validation loss", "验证损失"),
    "overlay_differences": ("What their settings differ in", "设置的不同之处"),
    "overlay_setting": ("Setting", "设置"),
    "overlay_alike": ("All settings are the same.", "所有设置都相同。"),
    "follow_newest": ("Newest of the training (follows it)", "最新的检查点（随训练更新）"),
    # Pinned prompts
    "pinned": ("Pinned prompts, answered at every checkpoint", "固定的提示：每个检查点都会回答"),
    "pinned_step": ("Answers of step", "查看第几步的回答"),
    "pinned_step_help": ("At the right end, newer answers follow.", "停在最右端时，会显示更新的回答。"),
    "pinned_prompts": ("Pinned prompts", "固定的提示"),
    "pinned_help": (
        "One a line, at most five; write \\n for a line break. What you change is asked from the next checkpoint on.",
        "每行一条，最多五条；换行请写 \\n。修改后从下一个检查点起生效。",
    ),
    "pinned_before": ("Prompts to watch", "训练时观察的提示"),
    "pinned_before_help": (
        "Base and prefix answer them at every checkpoint. One a line, at most five; write \\n for a line break. The "
        "first rows of the data are proposed.",
        "每个检查点都由原模型和前缀各回答一遍。每行一条，最多五条；换行请写 \\n。默认取数据的前几行。",
    ),
    "pin": ("Pin", "固定"),
    "pinned_saved": ("Asked from the next checkpoint on.", "从下一个检查点起回答。"),
    "pinned_later": ("Nothing answered yet; that happens at every checkpoint.", "暂无回答，每个检查点都会回答。"),
    "pinned_base": ("Base model", "原模型"),
    "pinned_tuned": ("With the prefix trained so far", "加上训练到此时的前缀"),
    "pinned_all_weights": ("With all weights trained so far", "训练到此时的全部权重"),
    # The line, and several settings
    "status_queued": ("in line", "排队中"),
    "queue_run": ("Queue", "排队"),
    "queued": (
        "{run} is in line; it is trained once those before it have ended.",
        "{run} 已排队，前面的训练结束后自动开始。",
    ),
    "line_title": ("In line ({count})", "排队中（{count}）"),
    "take_out": ("Take out", "移出"),
    "take_out_of": ("Take {run} out of the line", "将 {run} 移出队列"),
    "taken_out": ("{run} waits no longer; Resume puts it back.", "{run} 已移出队列，可用“继续训练”再次加入。"),
    "sweep": ("Try several settings", "多组设置"),
    "sweep_help": (
        "Values with commas between them; every combination becomes a run in line, at most 16. An empty list takes the "
        "form's value, as all other settings do.",
        "多个值用逗号分隔，每种组合作为一次训练进入队列，最多 16 次。留空则使用表单中的值，其他设置也取自表单。",
    ),
    "sweep_begin": ("Queue these runs", "将这些训练加入队列"),
    "sweep_begun": ("{count} runs are in line.", "{count} 次训练已加入队列。"),
    "sweep_results": ("Results of several settings", "多组设置的结果"),
    "sweep_group": ("Made together", "同一组"),
    "sweep_settings": ("Settings", "设置"),
    "sweep_status": ("Status", "状态"),
    "sweep_validation": ("Validation loss", "验证损失"),
    "sweep_time": ("Trained for", "训练时长"),
    "sweep_checkpoint": ("Checkpoint", "检查点"),
    "sweep_best": ("lowest", "最低"),
    "sweep_note": (
        "p: prefix length, lr: learning rate, s: steps. Lowest is the validation loss at the last validation.",
        "p：前缀长度，lr：学习率，s：步数。“最低”指最后一次验证的损失最低。",
    ),
}
