"""What the parts of Compare say beside its panes: key → (English, Chinese)."""

from __future__ import annotations

COMPARE_WORDS: dict[str, tuple[str, str]] = {
    # Conversations
    "conversations": ("Conversations", "会话"),
    "conversation_name": ("Name of this conversation", "当前会话的名称"),
    "new_conversation": ("New conversation", "新会话"),
    "begin_conversation": ("New", "新建"),
    "rounds": ("rounds: {count}", "{count} 轮"),
    "delete_conversation": ("Delete the conversation {name}", "删除会话 {name}"),
    "save_json": ("Save as JSON", "存为 JSON"),
    "save_md": ("Save as Markdown", "存为 Markdown"),
    "read_file": ("Open a file", "打开文件"),
    "conversations_stay": (
        "Conversations stay in this browser. Save those that you want to keep for good as files.",
        "会话只保存在这个浏览器中。需要长期保留的请存成文件。",
    ),
    # How answers are looked at
    "looking": ("Compare how", "对比方式"),
    "scroll_together": ("Scroll both panes together", "两栏同步滚动"),
    "scroll_together_help": ("Question by question, however long the answers are.", "按问题对齐，与回答长短无关。"),
    "show_differences": ("Show differences", "标出差异"),
    "show_differences_help": (
        "Words that the other answer does not have are underlined. Answers are shown without formatting then.",
        "另一栏没有的词会加下划线，此时回答不带格式。",
    ),
    # The blind vote
    "blind_vote": ("Blind vote", "盲评"),
    "blind_vote_help": (
        "Who answers where is shuffled for each question and shown after your vote.",
        "每个问题都随机左右互换，投票后才揭晓是谁回答的。",
    ),
    "hidden_until_vote": ("Vote to see who this was", "投票后揭晓"),
    "vote_left": ("Left is better", "左边更好"),
    "vote_tie": ("Tie", "不相上下"),
    "vote_right": ("Right is better", "右边更好"),
    "vote_same": (
        "Both answers came from the same model, so this vote is not counted.",
        "两边是同一个模型的回答，这次投票不计入统计。",
    ),
    "votes_who": ("Who", "模型"),
    "votes_counts": ("Won / lost / ties", "胜 / 负 / 平"),
    "votes_rate": ("Win rate", "胜率"),
    "votes_against": ("Against {names}", "对手：{names}"),
    "votes_note": (
        "Win rate: share of the decided votes, with its 95 % interval (Wilson). Votes stay in this browser.",
        "胜率只计分出胜负的投票，并给出 95% 置信区间（Wilson）。投票只保存在这个浏览器中。",
    ),
    # Samples
    "samples": ("Answer the last question several times", "多次回答上一个问题"),
    "samples_help": ("With one model and other seeds: shows what is chance.", "同一模型、不同种子，看看有多少是运气。"),
    "sample_left": ("Left model", "左栏模型"),
    "sample_right": ("Right model", "右栏模型"),
    "sample_count": ("How many answers", "回答次数"),
    "sample_ask": ("Answer", "回答"),
    "samples_of": ("{count} answers to the last question", "上一个问题的 {count} 个回答"),
    "sample_after_question": (
        "Ask a question first (and vote, where the vote is blind); then it can be answered several times.",
        "请先提问（盲评时请先投票），然后才能多次回答。",
    ),
    # Liked answers
    "liked": ("liked", "已收藏"),
    "edited": ("edited", "已修改"),
    "liked_on_disk": (
        "Kept as a row to train on; Train offers it as “Liked answers”.",
        "已作为一行训练数据保存，可在训练页选择“收藏的回答”。",
    ),
    "liked_in_browser": (
        "Marked in this conversation; “Save liked rows” under Conversations makes a data file of it.",
        "已在会话中标记，可在“会话”里点“存收藏数据”得到数据文件。",
    ),
    "nothing_liked": (
        "No answer is liked yet. Press the thumb beside a good answer in Compare, or edit one.",
        "还没有收藏的回答。在对比页点好回答旁的拇指，或直接修改回答。",
    ),
    "data_liked": ("Liked answers", "收藏的回答"),
    "save_jsonl": ("Save liked rows", "存收藏数据"),
    # The proof
    "prove_base": ("Prove that the base is untouched", "验证原模型未被改动"),
    "proof_holds": (
        "✓ The base is untouched: all {count} logits equal, bit for bit, those of a model that never saw a prefix.",
        "✓ 原模型未被改动：全部 {count} 个 logit 与从未加载前缀的模型逐位相同。",
    ),
    "proof_fails": (
        "✗ The base's logits differ from those of a model that never saw a prefix. Restart the page and report this.",
        "✗ 原模型的 logit 与从未加载前缀的模型不同。请重启页面并反馈此问题。",
    ),
    "proof_between": ("The prefix that ran in between changed its own pass.", "其间运行过的前缀只改变了它自己的结果。"),
    "proof_digest": ("SHA-256 of the logits: {digest}", "logit 的 SHA-256：{digest}"),
    "proof_running": ("A proof is being computed already; try again in a moment.", "正在验证中，请稍后再试。"),
    "forget_votes": ("Forget all votes", "清除全部投票"),
}
