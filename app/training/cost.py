"""What a run would cost, before it is started: time, memory, and what chat keeps meanwhile.

Knows forms, data files and forecasts. Keeps what is slow to find, so that asking again costs nothing. Knows no Gradio.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.training.served import TunedModel
from chatglm2.errors import RunError
from training.data.columns import find_columns
from training.data.encoding import ExampleEncoder, read_examples
from training.data.files import read_table
from training.runs.store import RunStore
from training.settings.train import Share, TrainingSettings

if TYPE_CHECKING:
    from training.plan.forecast import MemoryForecast
    from training.plan.pace import Pace, RowLengths

MEASURED_ROWS = 400
KEPT_FILES = 8
TokenCounts = tuple[int, Sequence[tuple[int, int]]]  # rows; prompt and answer tokens of some of them


@dataclass(frozen=True)
class RunCost:
    """What the settings of a form would cost.

    Attributes:
        pace: seconds a step and in all.
        memory: of the run; None while another one has it, and where all weights learn.
        chat_tokens: for which conversations would have memory meanwhile; None where they have theirs anyway.
        share: who goes first.
        refusal: why it would not start.
    """

    pace: Pace
    memory: MemoryForecast | None
    chat_tokens: int | None
    share: Share
    refusal: RunError | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """What to change in the form so that it fits; empty where nothing has to, or nothing would do."""
        return dict(getattr(self.refusal, "changes", {}))


class CostEstimator:
    """Answers for one page."""

    def __init__(self, model: TunedModel, runs: RunStore) -> None:
        self._model = model
        self._runs = runs
        self._counts: dict[tuple[Any, ...], TokenCounts] = {}
        self._lock = threading.Lock()

    def estimate(self, settings: TrainingSettings) -> RunCost:
        """What a run with ``settings`` would cost now.

        Raises:
            ChatGLMError: the model is not loaded yet, or the data cannot be read.
        """
        from chatglm2.memory.estimate import slot_bytes
        from training.plan.pace import estimate_pace, measured_rate, products_per_second
        from training.plan.step_plan import StepPlan

        model = self._model.model()
        active = self._runs.active()
        memory = None if active or settings.trains_all_weights else self._model.forecast(settings)
        refusal = None
        if active is None:
            try:
                self._model.require_memory(settings)
            except RunError as error:
                refusal = error
        rate = measured_rate(self._runs.list(), settings)
        speed = 1.0 if rate else products_per_second(model.device, model.dtype, model.config.hidden_size)
        plan = memory.plan if memory else StepPlan()
        pace = estimate_pace(model.config, settings, self._lengths(settings), plan, rate, speed)
        column = slot_bytes(model.config, model.dtype.itemsize, 1)
        kept = None
        if memory and memory.device == model.device and memory.context:
            most = self._model.engine().stats()
            kept = min(memory.left // column, most.slots * most.max_length)
        return RunCost(pace, memory, kept, settings.share, refusal)

    def _lengths(self, settings: TrainingSettings) -> RowLengths:
        from training.plan.pace import RowLengths

        rows, counts = self._token_counts(settings)
        source = [min(length, settings.max_source_length) for length, _ in counts]
        target = [min(length, settings.max_target_length) for _, length in counts]
        return RowLengths(rows, sum(source) / len(source), sum(target) / len(target))

    def _token_counts(self, settings: TrainingSettings) -> TokenCounts:
        """Rows are read and tokenized once for a file as it is; lengths in the form only cut what was counted."""
        file = Path(settings.train_file)
        columns = (settings.prompt_column, settings.response_column, settings.history_column)
        stat = file.stat() if file.exists() else None
        key = (file, stat and (stat.st_size, stat.st_mtime_ns), *columns, settings.source_prefix)
        with self._lock:
            if key not in self._counts:
                while len(self._counts) >= KEPT_FILES:
                    self._counts.pop(next(iter(self._counts)))
                self._counts[key] = self._count(settings)
            return self._counts[key]

    def _count(self, settings: TrainingSettings) -> TokenCounts:
        table = read_table(settings.train_file, skip_bad_rows=True)
        examples, _ = read_examples(table, find_columns(table, settings))
        encoder = ExampleEncoder(self._model.tokenizer(), replace(settings, preset=None))
        stride = max(1, len(examples) // MEASURED_ROWS)
        return len(examples), [encoder.count_tokens(example) for example in examples[::stride]]
