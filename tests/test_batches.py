"""Batches hold what the budget allows, from either end, and the search keeps the fastest budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.batches import BUDGETS, BudgetSearch, next_batch


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 1000), st.booleans())
def test_batches_from_either_end_hold_everything_once_and_stay_in_the_budget(lengths, budget, backwards):
    waiting = sorted(enumerate(lengths), key=lambda pair: pair[1])
    seen = []
    while waiting:
        batch = next_batch(waiting, budget, backwards)
        assert len(batch) == 1 or len(batch) * batch[-1][1] <= budget
        assert batch == (waiting[-len(batch) :] if backwards else waiting[: len(batch)])
        waiting = waiting[: -len(batch)] if backwards else waiting[len(batch) :]
        seen += [name for name, _ in batch]
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize("device", BUDGETS)
def test_the_fastest_budget_is_kept(device):
    for best in BUDGETS[device]:
        search = BudgetSearch(device)
        for _ in range(40):
            search.record(1000, 1.0 if search.budget == best else 1.05)
        assert search.budget == best


def test_a_fixed_budget_is_never_changed_but_by_memory():
    search = BudgetSearch("cpu", 700)
    for seconds in (1.0, 9.0, 0.1):
        search.record(700, seconds)
    assert search.budget == 700
    search.halve(4)
    assert search.budget == 350
