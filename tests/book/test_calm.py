"""Leaving early with a promise about whole texts: distances, the search, what is said of it."""

from types import SimpleNamespace

import pytest
import torch

from eenotes.language import exits, initialisation
from eenotes_book import records
from eenotes_book.ch06_language import CHAPTER, calm
from eenotes_book.ch06_language.drafting import OWN
from eenotes_book.ch06_language.settings import CalmSettings


def settings(**changed):
    facts = {"at": 2, "texts": 3, "new": 6, "thresholds": [0.9, 0.5, 0.1], "level": 0.2}
    return CalmSettings(**facts | {"delta": 0.05} | changed)


def test_the_distance_of_texts_by_hand():
    assert calm.distance([1, 2, 3], [1, 2, 3]) == 0
    assert calm.distance([1, 2], [3, 4]) == 1
    # 1, 3 and 4 come in the same order; a token that was left out moves the rest, not more
    assert calm.distance([1, 2, 3, 4], [1, 3, 4, 5]) == 0.25


def test_the_bound_by_hand():
    # of no loss at all Hoeffding's bound is exact: (1 - level)^N
    assert calm.p_value([0.0] * 60, level=0.2) == pytest.approx(0.8**60)
    # a mean at the level or above rules nothing out
    assert calm.p_value([0.2] * 60, level=0.2) == calm.p_value([0.9] * 60, level=0.2) == 1
    # it is never below the exact tail of losses of 0 and 1, P(Bin(10, 1/2) <= 1) = 11/1024
    assert 11 / 1024 <= calm.p_value([1.0] + [0.0] * 9, level=0.5) <= 11 / 1024 * 2.72


def test_the_search_ends_at_the_first_threshold_that_cannot_be_promised():
    asked = []

    def losses_at(threshold):
        asked.append(threshold)
        return [{0.9: 0.0, 0.5: 0.19, 0.1: 0.0}[threshold]] * 60

    found, tried = calm.chosen(losses_at, settings())
    # .19 on 60 texts does not rule out a mean of .2, and .1 is not asked for any more
    assert found == 0.9 and asked == [0.9, 0.5]
    assert tried[0]["p"] == pytest.approx(0.8**60) and tried[1]["p"] > 0.05
    assert calm.chosen(lambda _: [0.5] * 60, settings())[0] is None


def test_a_text_that_never_leaves_is_the_whole_models(monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=32, num_attention_heads=2,
        num_hidden_layers=4, eos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    lm = LlamaForCausalLM(config).eval()
    model = initialisation.initialise(exits.attach(lm, at=2, norm=True), "copy").eval()
    rows = torch.randint(12, (9, 8))
    d = SimpleNamespace(
        exits=lambda at: {OWN: model}, vocabulary=torch.arange(8), depth=4,
        p=SimpleNamespace(text=SimpleNamespace(val=rows, test=rows.flip(0))),
        s=SimpleNamespace(prompt=4),
    )  # fmt: skip
    never = calm.measured(d, settings(thresholds=[1.0]))
    assert never["tried"][0]["loss"] == 0 and never["loss"] == [0, 0, 0]
    assert never["early"] == [0, 0, 0] and never["passes"] == [1, 1, 1]
    # three texts are too few to promise anything
    assert never["threshold"] is None and "can be promised" in calm.sentence(never)
    monkeypatch.setattr(calm, "chosen", lambda *_: (0.0, []))
    free = calm.measured(d, settings())
    assert free["threshold"] == 0 and min(free["early"]) > 0 and max(free["passes"]) < 1


def test_what_is_claimed():
    found = {"at": 20, "level": 0.1, "threshold": 0.9, "loss": [0.05, 0.06, 0.07, 0.06, 0.05]}
    found |= {"early": [0.2] * 5, "passes": [0.9] * 5, "tried": []}
    record = records.Record(CHAPTER, data={}, seeds=[0], at="study")
    calm.claim(record, None)
    assert record.claims == []
    calm.claim(record, found)
    assert record.claims[0]["verdict"] == "holds" and record.claims[1]["ours"] == 0.9
    assert "20% of the tokens of 5 test texts" in calm.sentence(found)
    assert "not run" in calm.sentence(None)
