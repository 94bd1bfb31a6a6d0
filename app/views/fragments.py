"""Small pieces of HTML that the page fills in while it runs: chips, the status line, progress, tables.

Pure: values in, escaped HTML out. Looks are the stylesheet's business (``assets/styles/page.css``).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from app.chat.conversation import PANES, Answer
from app.chat.model_host import LoadingState
from app.chat.sources import LoadedSource, Source, who_answers
from app.machine import Memory
from app.text.languages import Speech
from app.training.run_view import RunView
from app.views.charts import format_number, histogram
from training.data.summary import DatasetReport, LengthReport
from training.runs.store import Status

GIB = 2**30
MIB = 2**20
DOWNLOAD_PATH = "download-checkpoint"
DOWNLOAD_FRAME = "download-answer"  # where the page learns why a download failed
ORIGINAL_FORMAT = "original"  # what a link asks for that wants the original's file instead of ours


def escape(text: object) -> str:
    return html.escape(str(text))


def format_bytes(count: int) -> str:
    """Megabytes up to a gigabyte, then gigabytes."""
    if count < MIB:
        return f"{count / 1024:.0f} KB"
    return f"{count / MIB:.1f} MB" if count < GIB else f"{count / GIB:.1f} GB"


def format_duration(seconds: float, speech: Speech) -> str:
    """Seconds up to a minute and a half, then minutes, then hours and minutes."""
    if seconds < 90:
        return speech("duration_seconds", seconds=round(seconds))
    minutes = round(seconds / 60)
    if minutes < 90:
        return speech("duration_minutes", minutes=minutes)
    return speech("duration_hours", hours=minutes // 60, minutes=minutes % 60)


def chip_html(loaded: LoadedSource, model_name: str, speech: Speech, hint: str = "") -> str:
    """Who answers in a pane, and whether its prefix changes anything."""
    kind = "base" if loaded.source.is_base else "tuned"
    note = escape(hint)
    if loaded.prefix is not None:
        known = "prefix_effect" if loaded.has_effect else "prefix_no_effect"
        note = escape(speech(known, change=f"{loaded.max_logit_change:.1f}"))
    warning = "" if loaded.has_effect else " warn"
    title = escape(speech("prefix_effect_help")) if loaded.prefix is not None else ""
    return (
        f'<div class="pane-head"><span class="chip {kind}">{escape(who_answers(loaded, model_name, speech))}</span>'
        f'<span class="pane-note{warning}" title="{title}">{note}</span></div>'
    )


def failed_chip_html(sentence: str) -> str:
    """In the place of a chip: why the pane's checkpoint cannot be read."""
    return f'<div class="pane-head failed"><span class="pane-note warn">{escape(sentence)}</span></div>'


def answer_facts(answer: Answer, speech: Speech) -> str:
    """Tokens, speed, seed and what a reader should know about how an answer ended."""
    if answer.error or not answer.finish_reason:
        return ""
    facts = [speech("tokens", count=answer.tokens), speech("speed", speed=f"{answer.tokens_per_second:.1f}")]
    if answer.seed is not None:
        facts.append(speech("seed_was", seed=answer.seed))
    if answer.finish_reason in ("length", "cancelled"):
        facts.append(speech(f"finish_{answer.finish_reason}"))
    if answer.stands_alone:
        facts.append(speech("stood_alone"))
    if answer.dropped_rounds:
        facts.append(speech("dropped_rounds", count=answer.dropped_rounds))
    return " · ".join(facts)


def facts_html(answer: Answer | None, speech: Speech) -> str:
    facts = answer_facts(answer, speech) if answer is not None else ""
    return f'<div class="pane-facts">{escape(facts) or "&nbsp;"}</div>'


def status_line(
    *,
    device: str,
    memory: Memory,
    model_name: str,
    context_tokens: int | None,
    training: str,
    speech: Speech,
) -> str:
    """The line under the title: where it runs, what it holds, what is in training."""
    cells = [
        (speech("status_device"), device),
        (
            speech("status_memory"),
            speech("memory_used_free", used=format_bytes(memory.used), free=format_bytes(memory.free)),
        ),
        (speech("status_model"), model_name),
        (speech("status_context"), speech("tokens", count=context_tokens) if context_tokens else "—"),
        (speech("status_training"), training),
    ]
    items = "".join(f"<span><b>{escape(name)}</b> {escape(value)}</span>" for name, value in cells)
    return f'<div class="status-line" role="status">{items}</div>'


def loading_banner(state: LoadingState, model_name: str, speech: Speech) -> str:
    """Shown until the model is ready: how far loading is, or why it failed."""
    if state.phase == "ready":
        return ""
    if state.error is not None:
        sentence = state.error.localized(speech.language)
        return (
            f'<div class="banner failed" role="alert"><b>{escape(speech("model_failed"))}</b> {escape(sentence)}</div>'
        )
    text = speech("model_preparing" if state.phase == "preparing" else "model_loading", name=model_name)
    if state.phase == "downloading":
        received, total = format_bytes(state.done_bytes), format_bytes(state.total_bytes)
        text = speech("model_downloading", name=model_name, received=received, total=total)
    return f'<div class="banner" role="status">{escape(text)}{progress_bar(state.fraction, text)}</div>'


def progress_bar(fraction: float | None, label: str) -> str:
    """A bar for people and for screen readers; without a fraction it only shows that something is going on."""
    if fraction is None:
        return f'<div class="bar waiting" role="progressbar" aria-label="{escape(label)}"><i></i></div>'
    percent = max(0, min(100, round(100 * fraction)))
    return (
        f'<div class="bar" role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
    )


def log_html(text: str) -> str:
    """A log that stays at its end: the outer box runs bottom to top."""
    return f'<div class="log" tabindex="0"><pre>{escape(text)}</pre></div>'


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[str]], limit: int = 120) -> str:
    """The first rows of a data file, each cell cut to ``limit`` characters."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell[:limit])}{'…' if len(cell) > limit else ''}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    table = f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="table-scroll">{table}</div>'


def sentence_html(sentence: str, kind: str = "") -> str:
    """A sentence in a box; ``kind`` says how it looks."""
    return f'<div class="sentence {kind}">{escape(sentence)}</div>' if sentence else ""


def run_html(view: RunView, speech: Speech) -> str:
    """How a run is doing: its bar, the numbers, and what it last said."""
    status = speech(f"status_{view.status}")
    steps = speech("progress_steps", step=view.step, total=view.total_steps) if view.total_steps else ""
    left = ""
    if view.status.is_active and view.seconds_left is not None:
        left = speech("time_left", duration=format_duration(view.seconds_left, speech))
    fraction = view.step / view.total_steps if view.total_steps else None
    bar = progress_bar(fraction if fraction or not view.status.is_active else None, speech("progress"))
    facts = " · ".join(part for part in (steps, left) if part)
    return (
        f'<div class="run"><div class="run-head"><span class="badge {view.status}">{escape(status)}</span>'
        f"<span>{escape(facts)}</span></div>{bar}{_run_numbers(view, speech)}{_run_message(view, speech)}</div>"
    )


def _run_numbers(view: RunView, speech: Speech) -> str:
    if view.latest is None:
        return ""
    numbers = (
        (speech("loss"), format_number(view.latest.loss)),
        (speech("learning_rate"), format_number(view.latest.learning_rate)),
        (speech("step_time"), f"{view.latest.seconds_per_step:.2f} s"),
    )
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in numbers)
    return f'<dl class="numbers">{cells}</dl>'


def _run_message(view: RunView, speech: Speech) -> str:
    if view.message is not None:
        kind = "failed" if view.status in (Status.FAILED, Status.INTERRUPTED) else ""
        return sentence_html(speech.pick(*view.message), kind)
    return sentence_html(speech("collapsed"), "failed") if view.collapsed else ""


def dataset_html(report: DatasetReport, speech: Speech) -> str:
    """A data file at a glance: how many rows, the first ones, and how long they are."""
    counts = [speech("data_counts", rows=f"{report.rows:,}")]
    if report.dropped:
        counts.append(speech("data_skipped", count=report.dropped))
    bad = _bad_rows_html(report, speech)
    columns = (report.columns.prompt, report.columns.response)
    rows = [(example.prompt, example.response) for example in report.first]
    return (
        f'<div class="dataset"><p>{escape(" · ".join(counts))}</p>{bad}{rows_table(columns, rows)}'
        + _lengths_html(report.source_tokens, speech("prompt_lengths"), speech)
        + _lengths_html(report.target_tokens, speech("answer_lengths"), speech)
        + "</div>"
    )


def _bad_rows_html(report: DatasetReport, speech: Speech) -> str:
    """How many rows cannot be used, and what is wrong with the first few."""
    bad = report.bad_rows
    if not bad.numbers:
        return ""
    items = "".join(f"<li>{escape(error.localized(speech.language))}</li>" for error in bad.first)
    head = escape(speech("data_broken", count=len(bad.numbers)))
    return f'<div class="sentence failed">{head}<ul>{items}</ul></div>'


def _lengths_html(report: LengthReport, title: str, speech: Speech) -> str:
    share = f"{report.over_limit / report.measured:.1%}"
    note = speech("truncated_share", share=share, limit=report.limit)
    if not report.over_limit:
        note = speech("none_truncated", limit=report.limit)
    chart = histogram(report.histogram.edges, report.histogram.counts, report.limit, title)
    return f"<figure><figcaption><b>{escape(title)}</b> <span>{escape(note)}</span></figcaption>{chart}</figure>"


def checkpoint_table(sources: Sequence[Source], selected: dict[str, str], speech: Speech) -> str:
    """Every checkpoint with what can be done to it; buttons carry ``data-action`` and ``data-key`` for the page.

    Args:
        selected: pane name → key of the source it answers with now.
    """
    checkpoints = [source for source in sources if not source.is_base]
    if not checkpoints:
        return f'<div class="empty">{escape(speech("no_checkpoints"))}</div>'
    titles = ("run", "step", "loss", "prefix", "settings", "size", "created", "actions")
    head = "".join(f'<th scope="col">{escape(speech(f"column_{title}"))}</th>' for title in titles)
    body = "".join(_checkpoint_row(source, titles, selected, speech) for source in checkpoints)
    return f'<table class="checkpoints"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _checkpoint_row(source: Source, titles: Sequence[str], selected: dict[str, str], speech: Speech) -> str:
    info = source.info
    if info is None:
        return ""
    projection = f" · {speech('with_projection')}" if info.prefix_projection else ""
    values = (
        info.run_name,
        f"{info.step} · {speech('best')}" if info.is_best else str(info.step),
        "—" if info.loss is None else f"{info.loss:.4f}",
        "—" if info.pre_seq_len is None else f"{info.pre_seq_len}{projection}",
        _settings_summary(info.settings),
        format_bytes(info.size_bytes),
        format_time(info.created_at),
    )
    cells = "".join(
        f'<td data-title="{escape(speech(f"column_{title}"))}">{escape(value)}</td>'
        for title, value in zip(titles[:-1], values, strict=True)
    )
    return (
        f'<tr title="{escape(info.path)}">{cells}<td class="actions">{_row_actions(source, selected, speech)}</td></tr>'
    )


def _settings_summary(settings: Mapping[str, Any]) -> str:
    """What a checkpoint was trained with, in the flags' own words; nothing where its files do not say."""
    names = (("learning_rate", "lr"), ("per_device_train_batch_size", "batch"))
    parts = [f"{short} {settings[name]:g}" for name, short in names if isinstance(settings.get(name), int | float)]
    if settings.get("train_file"):
        parts.append(Path(str(settings["train_file"])).name)
    return " · ".join(parts) or "—"


def _row_actions(source: Source, selected: dict[str, str], speech: Speech) -> str:
    key = escape(source.key)

    def button(action: str) -> str:
        name = speech(f"action_{action}")
        pressed = str(selected.get(action) == source.key).lower() if action in PANES else None
        state = f' aria-pressed="{pressed}"' if pressed else ""
        label = escape(f"{name}: {source.name}")
        data = f'data-action="{action}" data-key="{key}"'
        return f'<button type="button" {data} aria-label="{label}"{state}>{escape(name)}</button>'

    return button("left") + button("right") + _download_links(source, speech) + button("delete")


def _download_links(source: Source, speech: Speech) -> str:
    """The checkpoint's own files, and beside them the original's format, which a complete model does not have."""

    def link(action: str, **asked: str) -> str:
        target = f"{DOWNLOAD_PATH}?{urlencode({'key': source.key, **asked})}"
        title = speech(f"action_{action}_help")
        words = f'title="{escape(title)}" aria-label="{escape(f"{title}: {source.name}")}"'
        name = escape(speech(f"action_{action}"))
        return f'<a href="{escape(target)}" target="{DOWNLOAD_FRAME}" {words}>{name}</a>'

    links = link("download")
    if source.info is not None and source.info.is_prefix:
        links += link("original", format=ORIGINAL_FORMAT)
    return f'<span class="downloads">{links}</span>'


def format_time(moment: float | datetime) -> str:
    """Local time, to the minute."""
    when = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment)
    return when.astimezone().strftime("%Y-%m-%d %H:%M")
