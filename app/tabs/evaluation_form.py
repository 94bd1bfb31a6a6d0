"""What an evaluation is asked for on the page: checkpoints, rows, and what else of everybody is measured.

Builds the components and reads them; a browser keeps what was chosen, but no uploaded file, over a refresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from app.evaluation.service import Wanted
from app.services import Services
from app.tabs.access import open_to_all
from app.tabs.clock import Clock
from app.tabs.listening import QUIET
from app.tabs.translations import word
from training.data.files import SUFFIXES
from training.settings.samples import SAMPLE_BIAS_FILE, SAMPLE_CHOICES_FILE

SAMPLE, UPLOAD, NOTHING = "sample", "upload", "nothing"
MOST_ROWS = 10_000
# What is kept, in the order in which the browser's script is handed it.
KEPT = ("source", "limit", "asked", "choices", "bias", "checkpoints")
KEEP_SCRIPT = "(...values) => Object.fromEntries({names}.map((name, place) => [name, values[place]]))".replace(
    "{names}", str(list(KEPT))
)
Updates = dict[Any, Any]


class EvaluationForm:
    """Built inside a column; :meth:`bind` wires it. ``kept`` lies outside of any tab: inside one that is not shown yet
    a browser would not have read it when the page asks for it.
    """

    def __init__(self, services: Services, kept: gr.BrowserState) -> None:
        self.services, self.kept = services, kept
        self.known = gr.State([])
        self.checkpoints = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            label=word("evaluated_checkpoints"),
            info=word("evaluated_checkpoints_help"),
            elem_id="evaluated-checkpoints",
        )
        self.files: dict[str, Any] = {}
        self.source = self._source("source", "evaluated_rows", "evaluated_sample", "evaluated-source", SAMPLE)
        self.limit = gr.Number(
            100, label=word("evaluated_limit"), minimum=1, maximum=MOST_ROWS, precision=0, elem_id="evaluated-limit"
        )
        self.asked = self._source("asked", "asked_general", "general_sample", "asked-general", SAMPLE, NOTHING)
        self.choices = self._source("choices", "asked_choices", "general_sample", "asked-choices", NOTHING, NOTHING)
        self.bias = self._source("bias", "asked_bias", "bias_sample", "asked-bias", NOTHING, NOTHING)

    def _source(self, name: str, label: str, sample: str, elem_id: str, *values: str) -> gr.Radio:
        """Where something is from: the sample, an uploaded file, or (with two ``values``) nowhere; the first holds."""
        options = [(word(sample), SAMPLE), (word("data_upload"), UPLOAD)]
        options += [(word("general_none"), NOTHING)] * (len(values) - 1)
        info = word(f"{label}_help") if len(values) > 1 else None
        radio = gr.Radio(options, value=values[0], label=word(label), info=info, elem_id=elem_id)
        self.files[name] = gr.File(label=word("upload_label"), file_types=list(SUFFIXES), visible=False, height=110)
        return radio

    @property
    def inputs(self) -> set[Any]:
        """All that :meth:`wanted` reads."""
        return {self.checkpoints, self.limit, *self._sources.values(), *self.files.values()}

    @property
    def _sources(self) -> dict[str, gr.Radio]:
        return {"source": self.source, "asked": self.asked, "choices": self.choices, "bias": self.bias}

    def bind(self, demo: gr.Blocks, clock: Clock) -> None:
        """Connects what is chosen to what is shown and kept."""
        fields = [getattr(self, name) for name in KEPT]
        for name, radio in self._sources.items():
            radio.input(self.on_source, [radio], [self.files[name]], **QUIET)
        gr.on([field.input for field in fields], None, fields, [self.kept], js=KEEP_SCRIPT, **QUIET)
        shown = [*self._sources.values(), *self.files.values(), self.limit]
        demo.load(self.on_return, [self.kept], shown, **QUIET)
        menu = [self.known, self.checkpoints]
        demo.load(self.on_sources, [*menu, self.kept], menu, **QUIET)
        clock.tick(self.on_sources, [*menu, self.kept], menu, **QUIET)

    def wanted(self, values: Mapping[Any, Any]) -> Wanted | None:
        """What the components ask for; None where a file of one's own was chosen and is not there."""
        sources = {name: values[radio] for name, radio in self._sources.items()}
        files = {name: values[self.files[name]] if source == UPLOAD else None for name, source in sources.items()}
        if any(source == UPLOAD and not files[name] for name, source in sources.items()):
            return None
        return Wanted(
            checkpoints=values[self.checkpoints] or [],
            file=files["source"],
            general=files["asked"],
            asks_general=sources["asked"] != NOTHING,
            rows=int(values[self.limit] or 100),
            choices=str(SAMPLE_CHOICES_FILE) if sources["choices"] == SAMPLE else files["choices"],
            bias=str(SAMPLE_BIAS_FILE) if sources["bias"] == SAMPLE else files["bias"],
        )

    # Handlers

    @open_to_all
    def on_source(self, source: str) -> Any:
        return gr.File(visible=source == UPLOAD)

    @open_to_all
    def on_return(self, kept: Any) -> Updates:
        """What this browser chose before; whatever it holds that cannot be is left out."""
        kept = kept if isinstance(kept, dict) else {}
        updates: Updates = {self.limit: gr.skip()}
        for name, radio in self._sources.items():
            if kept.get(name) in [value for _, value in radio.choices]:
                updates |= {radio: kept[name], self.files[name]: gr.File(visible=kept[name] == UPLOAD)}
        limit = kept.get("limit")
        if isinstance(limit, int | float) and 1 <= limit <= MOST_ROWS:
            updates[self.limit] = int(limit)
        return updates

    @open_to_all
    def on_sources(self, known: list[str], chosen: list[str], kept: Any) -> Updates:
        """The menu follows what is on disk; a first visit finds the newest checkpoint chosen, a later one its own."""
        sources = [source for source in self.services.sources.sources() if not source.is_base]
        listed = [f"{source.key} {source.name}" for source in sources]
        if listed == known:
            return {self.known: gr.skip()}
        keys = [source.key for source in sources]
        before = kept.get("checkpoints") if isinstance(kept, dict) and not known else None
        wanted = before if isinstance(before, list) and before else chosen or []
        selected = [key for key in wanted if key in keys] or keys[:1]
        choices = [(source.name, source.key) for source in sources]
        return {self.known: listed, self.checkpoints: gr.Dropdown(choices, value=selected)}
