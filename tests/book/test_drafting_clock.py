"""The clock of drafting: every moment belongs to one part, and the parts are those that run."""

import pytest
import torch

from eenotes.language import decoding, exits, initialisation
from eenotes_book import records
from eenotes_book.ch06_language import CHAPTER, drafting_clock
from eenotes_book.ch06_language.drafting_clock import ABOVE, BELOW, DRAFT, FINAL, PARTS, REST

AT, DEPTH, PROMPT, NEW = 2, 5, 4, 12


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=12, num_hidden_layers=DEPTH, eos_token_id=None, initializer_range=0.3, **shape
    )
    lm = LlamaForCausalLM(config).eval()
    return initialisation.initialise(exits.attach(lm, at=AT, norm=True), "copy").eval()


@pytest.fixture
def ticks(monkeypatch):
    """A clock on which everything that is begun takes one second."""
    now = iter(range(10**6))
    monkeypatch.setattr(drafting_clock, "perf_counter", lambda: float(next(now)))


def test_the_seconds_of_plain_decoding_are_its_decoders_and_its_head(model, ticks):
    with drafting_clock.timeline(model) as line:
        decoding.greedy(model, torch.arange(1, PROMPT + 1), max_new_tokens=NEW)
    assert line.seconds[BELOW] == NEW * AT and line.seconds[ABOVE] == NEW * (DEPTH - AT)
    assert line.seconds[FINAL] == NEW and line.seconds[DRAFT] == 0


def test_the_seconds_of_a_draft_are_the_work_that_it_reports(model, ticks):
    with drafting_clock.timeline(model) as line:
        found = decoding.self_speculative(
            model, torch.arange(1, PROMPT + 1), max_new_tokens=NEW, draft=2
        )
    verified = NEW - sum(found.early)  # each check adds one token that was not drafted
    assert line.seconds[FINAL] == verified
    assert line.seconds[ABOVE] == verified * (DEPTH - AT)
    # a check begins the lower decoders once more, which hand on what they gave before
    below = found.layer_passes - verified * (DEPTH - AT)
    assert line.seconds[BELOW] == below + verified * AT
    assert line.seconds[DRAFT] == found.drafted
    hooks = [module for module in model.modules() if module._forward_pre_hooks]
    assert not hooks


def test_ways_take_turns_and_are_compared_with_the_text(model):
    texts = [
        decoding.greedy(model, torch.tensor(prompt), max_new_tokens=NEW).ids
        for prompt in ([1, 2, 3, 4], [5, 6, 7, 8])
    ]
    order = []

    def noted(model, prompt, new):
        order.append(("plain", new))
        return drafting_clock.plain(model, prompt, new)

    def wrong(model, prompt, new):
        order.append(("wrong", new))
        return torch.cat([prompt, torch.zeros(new, dtype=torch.int64)])

    ways = {"plain": (model, noted), "wrong": (model, wrong)}
    found = drafting_clock.clocked(ways, texts, prompt=PROMPT)
    assert order[2:] == [("plain", NEW), ("wrong", NEW)] * 2 and order[0][1] < NEW
    assert found["plain"]["same"] == 2 and found["wrong"]["same"] == 0
    for one in found.values():
        assert len(one["seconds"]) == 2 and min(one["seconds"]) > 0
        assert sum(one["parts"][part] for part in PARTS) == pytest.approx(sum(one["seconds"]))
    assert found["plain"]["parts"][REST] > 0


def test_all_ways_write_the_same_text(model):
    prompt = torch.arange(1, PROMPT + 1)
    plain = drafting_clock.plain(model, prompt, NEW)
    drafted = drafting_clock.drafted(
        model, prompt, NEW, draft=3, threshold=0.0, vocabulary=torch.arange(8)
    )
    assert torch.equal(plain, drafted)
    assert torch.equal(plain, drafting_clock.theirs(model, prompt, NEW))


def test_speeds_and_milliseconds_by_hand():
    parts = dict.fromkeys(PARTS, 0.0)
    ways = {
        name: {"seconds": seconds, "parts": parts | {FINAL: sum(seconds)}, "same": 2}
        for name, seconds in (
            (drafting_clock.PLAIN, [2.0, 4.0]),
            (drafting_clock.OWN, [1.0, 4.0]),
            (drafting_clock.LENS, [4.0, 4.0]),
        )
    }
    found = [{"at": 1, "threads": 2, "new": 10, "ways": ways}]
    rows = drafting_clock.table(found).set_index("way")
    assert rows.speed.tolist() == [1, 1.5, 0.75]
    assert rows.loc[drafting_clock.OWN, FINAL] == 250 and rows.loc[drafting_clock.OWN, DRAFT] == 0
    record = records.Record(CHAPTER, data={}, seeds=[0], at="study")
    drafting_clock.claim(record, found)
    assert [row["ours"] for row in record.claims] == [1.5, 0.75]
    drawn = drafting_clock.figure(found, provenance="here").data
    assert "1.50 times the speed of plain decoding" in drawn
    assert "has not run" in drafting_clock.figure([], provenance="here").data
