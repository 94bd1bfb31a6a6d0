"""The Compare tab: one input, two panes that answer together.

Builds the components and names the handlers. What a conversation is, who can answer and how is behind ``services``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import gradio as gr

from app.chat.conversation import PANES, Answer, Conversation
from app.chat.following import NEWEST, catch_up, entry_of, marks_in, newest_key, set_following
from app.chat.service import ChatSettings, parse_seed
from app.chat.sources import BASE, LoadedSource
from app.services import Services
from app.tabs.access import open_to_all
from app.tabs.clock import Clock
from app.tabs.comparing.composer import EXAMPLES, Composer
from app.tabs.comparing.conversations import Conversations
from app.tabs.comparing.liking import Liking
from app.tabs.comparing.looking import Looking
from app.tabs.comparing.proving import Proving
from app.tabs.comparing.samples import Samples
from app.tabs.comparing.stage import NOTHING_HEARD, Stage, Updates
from app.tabs.comparing.voting import Voting
from app.tabs.listening import ASKED, CHATTING, QUIET, say, say_problem
from app.tabs.mixing import NO_SECOND
from app.tabs.panes import build_pane, build_sampling
from app.tabs.translations import speech_for, word
from app.text.languages import Speech
from app.views.chat_view import chip_html, failed_chip_html, menu, notice_html, round_index
from app.views.export import export_page
from app.views.rendering import question_from_markdown
from app.views.theme import export_stylesheet
from chatglm2.errors import ChatGLMError

# How often the browser keeps what it has heard of an answer: as much is lost at most if the page goes away.
KEEP_SECONDS = 1.0
STARTED_WITH = "started_with"  # beside a browser's panes: what the page was started to show


class CompareTab:
    """Built inside a ``gr.Tab``; :meth:`bind` wires it once every tab is there."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.stage = stage = Stage()
        self.conversation, self.saved, self.heard = stage.conversation, stage.saved, stage.heard
        self.chosen = gr.State(dict.fromkeys(PANES, BASE))
        self.known = gr.State(())
        self.kept_choice = gr.BrowserState(None, storage_key="chatglm-panes", secret="chatglm")
        self.draft = gr.BrowserState({}, storage_key="chatglm-draft", secret="chatglm")
        with gr.Row(visible=False, elem_id="nothing-trained", elem_classes="notice") as self.nothing_trained:
            gr.Markdown(word("nothing_trained"))
            self.to_training = gr.Button(
                word("to_training"), variant="primary", size="sm", scale=0, min_width=120, elem_id="to-training"
            )
        with gr.Row(elem_id="panes", equal_height=True):
            self.panes = stage.panes = {name: build_pane(name) for name in PANES}
        self.voting, self.samples = Voting(stage), Samples()
        stage.parts = [self.voting, self.samples]
        self.liking, self.proving = Liking(stage, services.liked), Proving(services)
        self.composer, self.exported = Composer(), gr.JSON(visible=False)
        self.message = self.composer.message
        self.samples.build_answers()
        self.conversations, self.looking = Conversations(stage), Looking(stage, self.voting, self.samples, self.proving)
        self.settings = build_sampling()

    # Wiring

    def bind(self, demo: gr.Blocks, clock: Clock) -> None:
        """Connects everything to its handler."""
        mixers = [pane.mixer for pane in self.panes.values()]
        mixed = {part for mixer in mixers for part in mixer.inputs}
        kept: set[Any] = {*self.stage.kept, self.chosen, self.kept_choice}
        asked = {self.message, *kept, *self.settings.values(), *mixed}
        seen = self._streamed()
        runs = [
            gr.on([self.message.submit, self.composer.send.click], self.on_send, asked, seen, **CHATTING),
            *(
                button.click(self.on_example(text), asked, seen, **CHATTING)
                for button, text in zip(self.composer.examples, EXAMPLES, strict=True)
            ),
        ]
        for pane in self.panes.values():
            runs.append(pane.chat.retry(self.on_retry(pane.name), asked, seen, **CHATTING))
            runs.append(pane.chat.edit(self.on_edit(pane.name), asked, seen, **CHATTING))
            pane.chat.undo(self.on_undo, [self.conversation], self._settled(), **ASKED)
            pane.choice.input(self.on_choose(pane.name), [pane.choice, self.chosen], self.chosen_outputs(), **ASKED)
            mixer, again = pane.mixer, self.on_mix(pane.name)
            # Of the values that a slider is let go at while an answer runs, the last one is answered with.
            sliders = (mixer.strength, mixer.second_strength)
            runs += [slider.release(again, asked, seen, trigger_mode="always_last", **CHATTING) for slider in sliders]
            shown = mixer.second.input(mixer.on_second, [mixer.second], [mixer.second_strength], **QUIET)
            runs.append(shown.then(again, asked, seen, **CHATTING))
        begins = [self.message.submit, self.composer.send.click, *(button.click for button in self.composer.examples)]
        gr.on(begins, self.on_begin, None, [pane.facts for pane in self.panes.values()], **QUIET)
        sampled = {*asked, self.samples.pane, self.samples.count}
        runs.append(self.samples.ask.click(self.on_samples, sampled, seen, **CHATTING))
        self.composer.stop.click(self.on_stop, [self.conversation], [self.composer.stop], **QUIET)
        self.composer.undo.click(self.on_undo, [self.conversation], self._settled(), **ASKED)
        self.composer.clear.click(
            self.on_ask_clear, [self.conversation], [self.composer.clear_question, self.message, self.draft], **QUIET
        )
        self.composer.clear_no.click(self.on_keep, None, [self.composer.clear_question], **QUIET)
        cleared = self.composer.clear_yes.click(None, None, None, cancels=runs)
        cleared.then(self.on_clear, [self.conversation], [*seen, self.composer.clear_question], **QUIET)
        self.composer.export.click(self.on_export, asked, [self.exported], **ASKED).then(
            None, [self.exported], None, js="(page) => window.saveExport(page)", **QUIET
        )
        # `change`: `input` does not tell of what is pasted or filled in.
        self.message.change(None, [self.message], [self.draft], js="(text) => ({ text })", **QUIET)
        # In the browser alone: what is typed while the page is on its way is newer than what was kept.
        kept_text = "(text, draft) => text || (draft && draft.text) || ''"
        demo.load(None, [self.message, self.draft], [self.message], js=kept_text, **QUIET)
        demo.load(
            self.on_load, {*kept, self.looking.kept}, [*self._settled(), *self.chosen_outputs(), self.known], **QUIET
        )
        demo.unload(open_to_all(lambda: None))
        self.conversations.bind(self.composer.to_conversations)
        self.looking.bind(demo)
        self.voting.bind(demo)
        self.liking.bind()
        self.proving.bind(demo, self.chosen)
        seconds = [mixer.second for mixer in mixers]
        clock.tick(self.on_tick, [self.known, self.chosen, *seconds], [*self.chosen_outputs(), self.known], **QUIET)

    def _streamed(self) -> list[Any]:
        return [*self._settled(), self.composer.send, self.composer.stop]

    def _settled(self) -> list[Any]:
        return [self.message, self.draft, *self.stage.outputs]

    def chosen_outputs(self) -> list[Any]:
        """What a change of a pane's model touches; other tabs load checkpoints into panes too."""
        parts = [(pane.choice, pane.head, *pane.mixer.outputs) for pane in self.panes.values()]
        return [self.chosen, self.kept_choice, self.nothing_trained, *(component for own in parts for component in own)]

    # Handlers

    @open_to_all
    def on_send(self, values: Updates, request: gr.Request) -> Iterator[Updates]:
        yield from self._ask(values, values[self.message], request)

    def on_example(self, text: str) -> Any:
        @open_to_all
        def handler(values: Updates, request: gr.Request) -> Iterator[Updates]:
            # An example shows what a prefix has learnt, whatever was said before.
            yield from self._ask(values | {self.settings["remember"]: False}, text, request)

        return handler

    def on_edit(self, name: str) -> Any:
        @open_to_all
        def handler(values: Updates, event: gr.EditData, request: gr.Request) -> Iterator[Updates]:
            conversation, text = values[self.conversation], str(event.value)
            place = event.index if isinstance(event.index, int) else event.index[0]
            if self.liking.is_answer(conversation, name, place):
                yield self.liking.edit(conversation, name, place, text, request)
                return
            index = round_index(conversation, place)
            yield from self._ask(values, question_from_markdown(text), request, replaced_round=index)

        return handler

    def on_retry(self, name: str) -> Any:
        @open_to_all
        def handler(values: Updates, event: gr.RetryData, request: gr.Request) -> Iterator[Updates]:
            conversation: Conversation = values[self.conversation]
            if conversation.streaming:
                return
            index = round_index(conversation, event.index if isinstance(event.index, int) else event.index[0])
            side = conversation.rounds[index].side(name)
            conversation.retry(index, (side,))
            yield from self._stream(values, index, speech_for(request), panes=(side,))

        return handler

    def on_mix(self, name: str) -> Any:
        """Answers the last question again in one pane, with the same dice: only the mix is another."""

        @open_to_all
        def handler(values: Updates, request: gr.Request) -> Iterator[Updates]:
            conversation: Conversation = values[self.conversation]
            index = len(conversation.rounds) - 1
            if index < 0 or conversation.streaming or conversation.hides(index):
                return
            last = conversation.rounds[index].answers[name]
            settings = replace(self._form(values), remember=not last.stands_alone)
            if last.seed is not None:
                settings = replace(settings, seed=last.seed, same_seed=True)
            conversation.retry(index, (name,))
            yield from self._stream(values, index, speech_for(request), (name,), settings)

        return handler

    @open_to_all
    def on_samples(self, values: Updates, request: gr.Request) -> Iterator[Updates]:
        """Answers the last question several times with one pane's model."""
        speech, conversation = speech_for(request), values[self.conversation]
        index = len(conversation.rounds) - 1
        if conversation.streaming:
            return
        if index < 0 or conversation.hides(index):
            say(speech("sample_after_question"))
            return
        pane, settings = values[self.samples.pane], self._form(values)
        entry, key, mix = conversation.rounds[index], values[self.chosen][pane], self.panes[pane].mixer.read(values)
        answers = self.services.chat.sample(
            conversation, index, pane, key, values[self.samples.count], settings, speech, mix
        )

        def fail(sentence: str) -> None:
            entry.samples = [Answer(error=sentence)]

        yield from self._follow(conversation, answers, fail, speech)

    @open_to_all
    async def on_stop(self, conversation: Conversation) -> Any:
        """Runs on the server's loop: there it waits for no thread, whoever else is answered."""
        conversation.stop_requested = True
        return gr.Button(word("stopping"), interactive=False)

    @open_to_all
    async def on_begin(self, request: gr.Request) -> Updates:
        """Says what a message waits for where it cannot even begin: the line that it stands in says nothing."""
        count = self.services.chat.answering
        if count < CHATTING["concurrency_limit"]:
            return {self.panes["left"].facts: gr.skip()}
        sentence = speech_for(request)("waits_for_place", count=count)
        return {pane.facts: notice_html(sentence) for pane in self.panes.values()}

    @open_to_all
    def on_undo(self, conversation: Conversation, request: gr.Request) -> Updates:
        speech = speech_for(request)
        if conversation.streaming:
            say(speech("still_answering"))
            return {self.message: gr.skip()}
        question = conversation.undo()
        return {
            **self.stage.show(conversation, speech),
            self.message: question,
            self.draft: {"text": question},
            self.saved: conversation.to_dict(),
        }

    @open_to_all
    def on_ask_clear(self, conversation: Conversation) -> Updates:
        """What was said is asked about first; a draft alone is cleared at once."""
        if conversation.rounds:
            return {self.composer.clear_question: gr.Row(visible=True)}
        return {self.message: "", self.draft: {"text": ""}}

    @open_to_all
    def on_keep(self) -> Any:
        return gr.Row(visible=False)

    @open_to_all
    def on_clear(self, conversation: Conversation, request: gr.Request) -> Updates:
        return {
            **self.stage.put(Conversation(), conversation, speech_for(request)),
            **self._buttons(answering=False),
            self.composer.clear_question: gr.Row(visible=False),
            self.message: "",
            self.draft: {"text": ""},
        }

    def on_choose(self, name: str) -> Any:
        @open_to_all
        def handler(key: str, chosen: dict[str, str], request: gr.Request) -> Updates:
            return self.choose(name, key, chosen, speech_for(request))

        return handler

    @open_to_all
    def on_load(self, values: Updates, request: gr.Request) -> Updates:
        speech = speech_for(request)
        self._begin(values)
        values[self.conversation].view = self.looking.read(values[self.looking.kept])
        chosen = values[self.chosen]
        gone = self._bring_up_to_date(chosen)
        return {**self.stage.show(values[self.conversation], speech), **self._menus(chosen, speech, gone)}

    @open_to_all
    def on_tick(
        self, known: tuple[str, ...], chosen: dict[str, str], left_second: str, right_second: str, request: gr.Request
    ) -> Updates:
        keys = self._fingerprint()
        if keys == known:
            return {self.known: gr.skip()}
        speech = speech_for(request)
        seconds = {"left": left_second, "right": right_second}
        return self._menus(chosen, speech, self._bring_up_to_date(chosen), seconds)

    @open_to_all
    def on_export(self, values: Updates, request: gr.Request) -> Updates:
        conversation: Conversation = values[self.conversation]
        speech = speech_for(request)
        if not conversation.rounds:
            say(speech("nothing_to_export"))
            return {self.exported: None}
        return {self.exported: self._exported(conversation, self._form(values), speech)}

    # Behind the handlers

    def _first_choice(self) -> dict[str, str]:
        """What a browser that has chosen nothing yet compares: the base, and what is to be shown at first."""
        first = self.services.sources.first(self.services.host.options.path)
        return {"left": BASE, "right": first.key if first else BASE}

    def _to_keep(self, chosen: dict[str, str]) -> dict[str, str]:
        shown = self.services.sources.shown
        return {**chosen, STARTED_WITH: shown} if shown else chosen

    def _kept(self, stored: Any) -> dict[str, str] | None:
        """What this browser compared before; its panes are its own, whatever others train since.

        What it chose before the page was started with another checkpoint to show, it has not chosen beside that one.
        """
        if not isinstance(stored, dict) or stored.get(STARTED_WITH, "") != self.services.sources.shown:
            return None
        if not all(isinstance(stored.get(name), str) for name in PANES):
            return None
        return {**{name: stored[name] for name in PANES}, **marks_in(stored)}

    def _begin(self, values: Updates) -> None:
        """What this browser kept, taken up by whatever it does first; both values stay the session's own objects."""
        if self.stage.begin(values):
            values[self.chosen].update(self._kept(values[self.kept_choice]) or self._first_choice())

    def _bring_up_to_date(self, chosen: dict[str, str]) -> list[str]:
        """Panes that follow the training get its newest checkpoint; those whose checkpoint is gone answer with the
        base again. Returns which those are.
        """
        catch_up(chosen, self.services.sources, self.services.host.options.path)
        known = {source.key for source in self.services.sources.sources()}
        gone = [name for name in PANES if chosen[name] not in known]
        chosen.update(dict.fromkeys(gone, BASE))
        return gone

    def _exported(self, conversation: Conversation, settings: ChatSettings, speech: Speech) -> dict[str, str]:
        """The file that the browser saves."""
        now = datetime.now().astimezone()
        page = export_page(
            conversation,
            settings=settings.described(speech),
            model_name=self.services.host.options.name,
            now=now,
            stylesheet=export_stylesheet(),
            speech=speech,
        )
        return {"name": f"chatglm2-{now:%Y%m%d-%H%M%S}.html", "page": page, "type": "text/html"}

    def choose(self, name: str, key: str, chosen: dict[str, str], speech: Speech) -> Updates:
        """Loads ``key`` into a pane, or what `NEWEST` is now; where that fails, says why and leaves it as it was."""
        pane, entry = self.panes[name], key
        if entry == NEWEST:
            key = newest_key(self.services.sources, self.services.host.options.path)
        try:
            loaded = self.services.sources.load(key)
        except ChatGLMError as error:
            say_problem(error, speech)
            return {pane.choice: gr.Dropdown(value=entry_of(chosen, name))}
        chosen[name] = key
        set_following(chosen, name, on=entry == NEWEST)
        return {
            self.chosen: chosen,
            self.kept_choice: self._to_keep(chosen),
            pane.choice: gr.Dropdown(value=entry),
            pane.head: self._chip(loaded, speech),
            **pane.mixer.start(loaded.source, speech),
        }

    def _ask(
        self, values: Updates, question: str, request: gr.Request, replaced_round: int | None = None
    ) -> Iterator[Updates]:
        speech = speech_for(request)
        self._begin(values)
        conversation: Conversation = values[self.conversation]
        if conversation.streaming or not question.strip():
            return
        try:
            self.services.chat.check(question, self._form(values))
        except ChatGLMError as error:
            say_problem(error, speech)
            yield self.stage.show(conversation, speech)
            return
        if replaced_round is None:
            conversation.ask(question)
            yield {self.message: "", self.draft: {"text": ""}}
        else:
            conversation.edit(replaced_round, question)
        yield from self._stream(values, len(conversation.rounds) - 1, speech)

    def _stream(
        self,
        values: Updates,
        index: int,
        speech: Speech,
        panes: tuple[str, ...] = PANES,
        settings: ChatSettings | None = None,
    ) -> Iterator[Updates]:
        conversation: Conversation = values[self.conversation]
        settings = settings or self._form(values)
        mixes = {name: self.panes[name].mixer.read(values) for name in panes}
        answers = self.services.chat.answer(conversation, index, values[self.chosen], settings, speech, panes, mixes)

        def fail(sentence: str) -> None:
            conversation.rounds[index].answers |= {pane: Answer(error=sentence) for pane in panes}

        yield from self._follow(conversation, answers, fail, speech)

    def _follow(
        self, conversation: Conversation, answers: Generator[None], fail: Callable[[str], None], speech: Speech
    ) -> Iterator[Updates]:
        """Shows the conversation while ``answers`` are given in it, and keeps it in the browser."""
        conversation.stop_requested = False  # Stop can be pressed from here on
        yield {**self._buttons(answering=True), self.saved: conversation.to_dict(), self.heard: NOTHING_HEARD}
        kept_at = time.monotonic()
        try:
            # A closed tab closes this generator here; closing the inner one frees the engine's slots.
            with closing(answers):
                for _ in answers:
                    updates = self.stage.show(conversation, speech)
                    if time.monotonic() - kept_at > KEEP_SECONDS:
                        kept_at = time.monotonic()
                        updates[self.heard] = conversation.last_round()
                    yield updates
        except ChatGLMError as error:
            fail(error.localized(speech.language))
        yield {
            **self.stage.show(conversation, speech),
            **self._buttons(answering=False),
            self.saved: conversation.to_dict(),
            self.heard: NOTHING_HEARD,
        }

    def _buttons(self, answering: bool) -> Updates:
        stop = gr.Button(word("stop"), visible=answering, interactive=True)
        return {self.composer.send: gr.Button(visible=not answering), self.composer.stop: stop}

    def _menus(
        self,
        chosen: dict[str, str],
        speech: Speech,
        gone: Sequence[str] = (),
        seconds: Mapping[str, str] = MappingProxyType({}),
    ) -> Updates:
        sources = self.services.sources.sources()
        choices = menu(sources, speech)
        hints = dict.fromkeys(gone, speech("checkpoint_gone"))
        updates: Updates = {self.chosen: chosen, self.known: self._fingerprint()}
        updates[self.nothing_trained] = gr.Row(visible=len(sources) <= 1)
        if any(chosen[name] != BASE for name in PANES):  # where there is nothing to compare yet, nothing was chosen
            updates[self.kept_choice] = self._to_keep(chosen)
        for name, pane in self.panes.items():
            updates[pane.choice] = gr.Dropdown(choices=choices, value=entry_of(chosen, name))
            updates[pane.head] = self._head(chosen[name], speech, hints.get(name, ""))
            updates |= pane.mixer.offer(sources, chosen[name], seconds.get(name, NO_SECOND), speech)
        return updates

    def _head(self, key: str, speech: Speech, hint: str) -> str:
        try:
            return self._chip(self.services.sources.load(key), speech, hint)
        except ChatGLMError as error:
            return failed_chip_html(error.localized(speech.language))

    def _chip(self, loaded: LoadedSource, speech: Speech, hint: str = "") -> str:
        return chip_html(loaded, self.services.host.options.name, speech, hint)

    def _fingerprint(self) -> tuple[str, ...]:
        """Changes when the menus would; the model's arrival counts, since a prefix can be read only then."""
        sources = self.services.sources.sources()
        return (self.services.host.state.phase, *(f"{source.key} {source.name}" for source in sources))

    def _form(self, values: Updates) -> ChatSettings:
        form = {name: values[component] for name, component in self.settings.items()}
        return ChatSettings(**form | {"seed": parse_seed(form["seed"])})
