"""Everything the page works with, built once and passed on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.chat.judging.liked import LikedRows
from app.chat.model_host import ModelHost, ModelOptions
from app.chat.service import ChatService
from app.chat.sources import PrefixLoader, Shown, SourceLibrary
from app.evaluation.service import EvaluationService
from app.library.service import LibraryService
from app.places import EVERYWHERE, KEPT_DATA, LIKED_FILE, Places
from app.training.care import RunCare
from app.training.line import RunLine
from app.training.served import TunedModel, trainer_environment
from app.training.service import TrainingService
from app.training.sweeps import Sweeps
from training.comparison.place import ComparisonStore
from training.library.base import base_fingerprint
from training.runs.launch import Standby
from training.runs.store import RunStore


@dataclass(frozen=True)
class Services:
    """What handlers may use. A browser test builds it on a small model; nothing else differs."""

    host: ModelHost
    sources: SourceLibrary
    chat: ChatService
    training: TrainingService
    evaluation: EvaluationService
    library: LibraryService
    care: RunCare
    line: RunLine
    sweeps: Sweeps
    liked: LikedRows


def build_services(
    options: ModelOptions, output: Path, places: Places | None = None, shown: Shown | None = None
) -> Services:
    """Wires the model host, the runs under ``output`` and what stands on them. Loads nothing yet.

    ``places`` are the folders that are read; without them all that the user may read, as befits a program that has no
    callers but its own. `app.__main__` names them. ``shown`` is what the right pane shows at first.
    """
    read = places if places is not None else EVERYWHERE
    standby = Standby(lambda: trainer_environment(host.device))
    runs = RunStore(output)
    line = RunLine(runs, standby)

    def on_ready() -> None:
        standby.prepare()
        line.keep_going()  # a trainer is told where the model is

    host = ModelHost(options, on_ready=on_ready)
    weights = cache(lambda: base_fingerprint(options.path))
    loader = PrefixLoader(
        host.load_prefix, lambda prefix: host.session.probe(prefix), lambda: host.rotary_angles, weights
    )
    sources = SourceLibrary(runs, loader, output, read, shown)
    bits = options.quantization_bit
    tuned = TunedModel(
        options.path,
        options.hub,
        tokenizer=lambda: host.session.tokenizer,
        model=lambda: host.session.engine.model,
        engine=lambda: host.session.engine,
        quantization_bit=bits,
    )
    training = TrainingService(runs, tuned, output, standby, read)
    evaluation = EvaluationService(
        ComparisonStore(output), tuned, sources, training, lambda: trainer_environment(host.device)
    )
    library = LibraryService(output, sources, weights)
    liked = LikedRows(output / KEPT_DATA / LIKED_FILE)
    return Services(
        host,
        sources,
        ChatService(host, sources),
        training,
        evaluation,
        library,
        RunCare(runs),
        line,
        Sweeps(runs),
        liked,
    )
