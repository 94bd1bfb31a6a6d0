"""A request gets the slot that saves it most, finds there what it shares with it, and leaves its text behind."""

from __future__ import annotations

import pytest
from small_models import build_prefix

from chatglm2 import Prefix, Request, SamplingParams
from chatglm2.serving.slots import WORTH_REUSING, Row, Slot, SlotTable
from chatglm2.serving.stream import Stream

LONG = list(range(20, 20 + 2 * WORTH_REUSING))


def take(table: SlotTable, request: Request) -> Slot:
    slot = table.choose(request)
    table.take(slot, request)
    return slot


def serve(table: SlotTable, prompt: list[int], prefix: Prefix | None = None) -> tuple[Slot, bool, int]:
    """The slot that a request gets, whether its prefix is to be written, and the tokens it finds; it ends at once."""
    slot = table.choose(Request(prompt, prefix))
    needs_prefix = table.take(slot, Request(prompt, prefix))
    found = len(slot.tokens)
    row = Row(Stream(Request(prompt, prefix), cancel=lambda _: None), slot, 10_000)
    row.take_prompt(len(prompt))
    table.release(slot)
    return slot, needs_prefix, found


def test_the_next_turn_finds_its_conversation() -> None:
    table = SlotTable(3)
    first = serve(table, LONG)[0]
    serve(table, [5] * 80)
    slot, _, found = serve(table, [*LONG, 1, 2, 3])
    assert slot is first and found == len(LONG) == table.reused_tokens


def test_the_last_token_of_a_prompt_is_computed_even_if_it_is_there() -> None:
    table = SlotTable(1)
    serve(table, LONG)
    assert serve(table, LONG)[2] == len(LONG) - 1


def test_what_follows_the_common_text_is_cut_off() -> None:
    table = SlotTable(1)
    serve(table, [*LONG, 7, 8, 9])
    slot, _, found = serve(table, [*LONG, 1])
    assert found == len(LONG) and slot.tokens == [*LONG, 1]


def test_text_behind_another_prefix_is_not_shared_and_a_prefix_is_written_once() -> None:
    table = SlotTable(1)
    one, other = build_prefix(3), build_prefix(3, seed=2)
    seen = [serve(table, LONG, prefix)[1:] for prefix in (None, one, one, other, None, None)]
    kept = len(LONG) - 1
    assert seen == [(False, 0), (True, 0), (False, kept), (True, 0), (False, 0), (False, kept)]


def test_few_common_tokens_are_not_worth_a_conversation() -> None:
    table = SlotTable(2)
    kept = serve(table, LONG)[0]
    assert serve(table, [*LONG[: WORTH_REUSING - 1], *[5] * 50])[0] is not kept


def test_an_empty_slot_is_taken_first_then_the_one_unused_for_longest() -> None:
    table = SlotTable(2)
    old, newer = (serve(table, [start] * 60)[0] for start in (5, 6))
    assert old is not newer
    assert serve(table, [7] * 60)[0] is old
    assert serve(table, [8] * 60)[0] is newer


def test_a_slot_in_use_is_nobody_elses() -> None:
    table = SlotTable(2)
    taken = [take(table, Request(LONG)) for _ in range(2)]
    assert taken[0] is not taken[1] and not table.has_free
    table.release(taken[1])
    assert table.has_free and take(table, Request(LONG)) is taken[1]


@pytest.mark.parametrize("prefix", [None, build_prefix(3)], ids=["base", "prefix"])
def test_a_slot_that_is_forgotten_shares_nothing(prefix: Prefix | None) -> None:
    table = SlotTable(1)
    slot = take(table, Request(LONG, prefix))
    Row(Stream(Request(LONG, prefix), cancel=lambda _: None), slot, 1000).take_prompt(len(LONG))
    table.release(slot, forget=True)
    assert (slot.tokens, slot.prefix_hash) == ([], None)
    assert serve(table, LONG, prefix)[1:] == (prefix is not None, 0)


def test_a_row_may_use_what_it_asked_for_and_what_the_context_has_left() -> None:
    def remaining(wanted: int, limit: int) -> int:
        request = Request(LONG, sampling=SamplingParams(max_new_tokens=wanted))
        return Row(Stream(request, cancel=lambda _: None), Slot(0), limit).remaining

    assert remaining(5, 1000) == 5
    assert remaining(1000, len(LONG) + 5) == 5


def test_a_prompt_is_taken_in_parts_that_lie_in_the_slot() -> None:
    slot = Slot(0)
    slot.tokens = LONG[:10]
    row = Row(Stream(Request(LONG), cancel=lambda _: None), slot, 1000)
    parts = []
    while row.is_prefilling:
        parts.append(row.take_prompt(20))
    assert [token for part in parts for token in part] == LONG[10:]
    assert max(map(len, parts)) == 20 and slot.tokens == LONG
