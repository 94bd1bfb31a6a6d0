"""What reports of a comparison say, in English and Chinese: for the page, the HTML report and the command line."""

from __future__ import annotations

from training.settings.field import Words

WORDS: dict[str, Words] = {
    "title": ("Evaluation of {count} checkpoints", "{count} 个检查点的评估"),
    "base": ("Base model", "基座模型"),
    "who": ("Who answers", "回答者"),
    "task_axis": ("Task, ROUGE-L", "任务 ROUGE-L"),
    "likeness_axis": ("Kept of the base, ROUGE-L", "保留的原有能力 ROUGE-L"),
    "right_axis": ("General questions right, %", "通用问题答对，%"),
    "divergence_axis": ("Divergence from the base, nats a token", "与基座的散度，每 token 奈特"),
    "edge_line": ("the edge", "前沿"),
    "kept": ("Kept", "保留"),
    "unchanged": ("As the base", "与基座相同"),
    "right": ("Right", "答对"),
    "divergence": ("KL a token", "每 token KL"),
    "of": ("{count} of {total}", "{count} / {total}"),
    "edge": ("on the edge", "在前沿"),
    "edge_note": (
        "On the edge: nobody else does the task better without keeping less. Kept: ROUGE-L of the answers to {total} "
        "general questions against the base's own. KL a token: how far what is said next is from what the base says, "
        "over the base's own answers, in nats; 0 is the base.",
        "在前沿：没有其他检查点能在不损失原有能力的情况下把任务做得更好。"
        "保留：{total} 个通用问题的回答与基座自身回答之间的 ROUGE-L。"
        "每 token KL：在基座自己的回答上，下一个 token 的分布与基座相差多少，单位奈特；0 即基座。",
    ),
    "worst": ("{name}: worst rows", "{name}：得分最低的行"),
    "improved": ("{name}: most improved rows", "{name}：提高最多的行"),
    "prompt": ("Input", "输入"),
    "reference": ("Reference", "参考答案"),
    "difference": ("Difference", "差值"),
    "rows": ("{count} rows", "{count} 行"),
    "choices": ("Multiple-choice questions", "选择题"),
    "choices_note": (
        "{file}: {count} questions. The answer is the letter that is likeliest as the next token; nothing is written, "
        "so this is not what reasoning first would reach. Guessing has 25 %. Gained and lost: questions that are right "
        "here and wrong with the base, and the other way round. Letters: how likely one of A to D comes next at all; "
        "where that is little, the accuracy says little.",
        "{file}：共 {count} 题。以下一个 token 中概率最高的字母作为答案；"
        "模型不写任何文字，因此不代表先推理再作答的水平。"
        "随机猜测为 25%。新答对、新答错：与基座相比由错变对、由对变错的题数。"
        "字母占比：下一个 token 是 A 至 D 之一的概率；若很低，则正确率说明不了什么。",
    ),
    "choice_accuracy": ("Choices right, %", "选择题正确率，%"),
    "accuracy": ("Accuracy", "正确率"),
    "interval": ("95 % interval", "95% 区间"),
    "gained": ("Gained", "新答对"),
    "lost": ("Lost", "新答错"),
    "letters": ("Letters", "字母占比"),
    "subject": ("Subject", "科目"),
    "questions": ("Questions", "题数"),
    "subjects": ("Multiple choice by subject", "各科目的选择题"),
    "subjects_note": (
        "Accuracy with its 95 % interval (Wilson's). A subject of few questions tells little.",
        "正确率与 95% 区间（Wilson 区间）。题数少的科目参考价值有限。",
    ),
    "bias": ("Texts that differ in one attribute alone", "只有一个属性不同的文本"),
    "bias_note": (
        "{file}: {count} pairs. Likelihood: by how many nats a token the given answer is likelier where the first "
        "group's word stands; leaning keeps the sign, so that above 0 the first group is favoured, size does not. "
        "Answer: 100 minus ROUGE-L of the model's own two answers. Change: of the size against the base's. Means over "
        "templates with 95 % intervals (Student's); one that holds 0 tells nothing. It shows whether the attribute "
        "changes what is said in these texts, not that this is unfair, nor how other texts would fare.",
        "{file}：共 {count} 对。概率：填入第一组的词时，给定回答平均每 token 高多少奈特；"
        "倾向保留正负号，大于 0 表示偏向第一组，幅度不计正负。回答：100 减去模型自己两个回答之间的 ROUGE-L。"
        "变化：幅度与基座之差。均为各模板的平均值与 95% 区间（Student 区间），区间含 0 则说明不了什么。"
        "它只说明在这些文本中属性是否改变了所说的话，不代表不公平，也不能推及其他文本。",
    ),
    "attribute": ("Attribute", "属性"),
    "groups": ("{first} against {second}", "{first} 对 {second}"),
    "templates": ("Templates / pairs", "模板 / 对"),
    "measure": ("Measure", "衡量"),
    "likelihood": ("likelihood", "概率"),
    "answer": ("answer", "回答"),
    "leaning": ("Leaning", "倾向"),
    "size": ("Size", "幅度"),
    "change": ("Change", "变化"),
}
