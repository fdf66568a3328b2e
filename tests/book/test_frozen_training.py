"""Frozen training of a pretrained model's exit: its step by hand, its starts, what is counted."""

from types import SimpleNamespace

import pytest
import torch

from eenotes.language import exits
from eenotes_book import cache, records
from eenotes_book.ch06_language import frozen_tables, frozen_training, study, thesis
from eenotes_book.ch06_language.epoch_zero import places
from eenotes_book.ch06_language.features import DRAWS
from eenotes_book.ch06_language.settings import TrainingSettings

V, D = 12, 8


def settings(**changed):
    facts = {"at": 1, "train": 1, "val": 1, "test": 1, "least": 2, "batch": 20, "epochs": 2}
    return TrainingSettings(**facts | {"rates": [0.01]} | changed)


@pytest.fixture(scope="module")
def frozen():
    """Drawn features around a point per token, in place of those of a small Llama's exit."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=D, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    points = torch.randn(V, D)

    def features(split, draw, *, at, norm):
        assert norm and at == 1
        generator = torch.Generator().manual_seed(10 * draw + len(split))
        labels = torch.randint(V - 1, (40,), generator=generator)
        yield points[labels] + torch.randn(40, D, generator=generator), labels

    def ordinary(split, draw):
        return torch.arange(40).reshape(2, 20) % 4 > 0

    p = SimpleNamespace(
        model=model, anatomy=exits.anatomy(model), features=features, ordinary=ordinary
    )
    return frozen_training.Frozen(p, settings())


def test_the_gradient_by_hand_and_by_autograd():
    # at zero weights both tokens have 1/2: the error is (-1/2, 1/2)
    zero, x = (torch.zeros(2, 2), torch.zeros(2)), torch.tensor([[2.0, -4.0]])
    weight, bias = frozen_training.gradient(zero, x, torch.tensor([0]))
    assert weight.tolist() == [[-1, 2], [1, -2]] and bias.tolist() == [-0.5, 0.5]
    head = torch.randn(V, D, requires_grad=True), torch.randn(V, requires_grad=True)
    x, y = torch.randn(7, D), torch.randint(V, (7,))
    torch.nn.functional.cross_entropy(x @ head[0].T + head[1], y).backward()
    found = frozen_training.gradient(tuple(part.detach() for part in head), x, y)
    for part, one in zip(head, found, strict=True):
        torch.testing.assert_close(one, part.grad)


def test_the_first_step_moves_every_weight_by_the_rate():
    start = torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.zeros(2)
    x, y = torch.tensor([[2.0, -4.0]]), torch.tensor([0])
    s = settings(batch=1, epochs=1)
    before, after = (
        [part.clone() for part in head]
        for head in frozen_training.trained(start, x, y, s, rate=0.1)
    )
    assert torch.equal(before[0], start[0]) and torch.equal(before[1], start[1])
    kept = 1 - 0.1 * 0.01  # of every weight, by the decay
    expected = torch.tensor([[kept + 0.1, kept - 0.1], [kept - 0.1, kept + 0.1]])
    torch.testing.assert_close(after[0], expected)
    torch.testing.assert_close(after[1], torch.tensor([0.1, -0.1]))
    assert start[0].eq(1).all()


def test_which_tokens_a_head_knows_and_what_counts():
    labels = torch.tensor([3, 1, 3, 0, 1, 3])
    words = frozen_training.frequent(labels, least=2)
    assert words.tolist() == [1, 3]
    assert places(torch.tensor([3, 0, 1, 9]), words).tolist() == [1, -1, 0, -1]
    # a draw has two positions; the head always names place 0
    head = torch.zeros(2, 1), torch.tensor([1.0, 0.0])
    y = torch.tensor([0, -1] * (DRAWS - 1) + [1, 0])
    ordinary = torch.tensor([True, True] * (DRAWS - 1) + [True, False])
    found = frozen_training.counts(head, torch.zeros(2 * DRAWS, 1), y, ordinary)
    assert found["right"] == [[1, 1]] * (DRAWS - 1) + [[1, 0]]
    right, wrong = (-torch.tensor([1.0, 0.0]).log_softmax(0)).tolist()
    assert found["loss"] == pytest.approx((DRAWS * right + wrong) / (DRAWS + 1))


def test_seven_starts_on_the_same_features(frozen):
    runs = {
        start: frozen_training.measured(frozen, start=start, rate=0.01)
        for start in frozen_training.STARTS
    }
    assert runs.keys() == frozen.heads[0].keys() and len(runs) == 7
    first = {start: run["history"][0] for start, run in runs.items()}
    means, scaled = first[frozen_training.MEANS], first[frozen_training.SCALED]
    assert means["right"] == scaled["right"] and means["loss"] != scaled["loss"]
    for run in runs.values():
        assert len(run["history"]) == 3 and run["positions"] == [[40, 30]] * DRAWS
        assert run["words"] == V - 1 and run["tokens"] == run["known"] == DRAWS * 40
    ends = {start: run["history"][-1]["loss"] for start, run in runs.items()}
    assert ends[frozen_training.RANDOM] < first[frozen_training.RANDOM]["loss"]
    weight, bias = frozen.heads[0][frozen_training.SCALED]
    n0 = (
        frozen.heads[1]["factor"]
        * frozen_training.statistics_among(*frozen.train, frozen.words).plug_in_n0()
    )
    torch.testing.assert_close(weight, 2 / n0 * frozen.heads[0][frozen_training.MEANS][0])


def test_a_study_that_was_cut_off_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("EENOTES_STEPS", str(tmp_path))
    s = study.settings.load(study.CHAPTER, "study")
    asked = []

    def measured(f, *, start, rate):
        asked.append((start, rate))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"start": start}

    monkeypatch.setattr(frozen_training, "measured", measured)
    monkeypatch.setattr(frozen_training, "Frozen", lambda *_: None)
    monkeypatch.setattr(study.features, "load", lambda _: None)
    assert study.trained(s, missing=False) == []
    with pytest.raises(KeyboardInterrupt):
        study.trained(s)
    assert [one["start"] for one in study.trained(s, missing=False)] == ["random", "class mean"]
    assert len(study.trained(s)) == len(frozen_training.STARTS) * len(s.training.rates)
    assert asked[2] == asked[3] and len(list(cache.steps_folder().iterdir())) == len(asked) - 1


def run_of(start, accuracies, rate=0.1):
    """A run with these accuracies per epoch, on draws of 100 positions that differ a little."""
    right = [[[round(100 * value) + draw, 0] for draw in range(DRAWS)] for value in accuracies]
    history = [{"right": row, "loss": 1.0 + epoch} for epoch, row in enumerate(right)]
    about = {"positions": [[100, 50]] * DRAWS, "words": 9, "tokens": 900}
    return {"start": start, "rate": rate, "history": history} | about


def test_claims_are_about_the_runs_that_have_finished():
    runs = [
        run_of(frozen_training.RANDOM, [0, 0, 0.01]),
        run_of(frozen_training.MEANS, [0.24, 0.13, 0.22]),
        run_of(frozen_training.SCALED, [0.24, 0.25, 0.3]),
    ]
    record = records.Record(study.CHAPTER, data={}, seeds=[0], at="study")
    frozen_tables.claim(record, runs)
    found = {row["statement"].split(": ")[1].split(";")[0]: row for row in record.claims}
    dip = found["class means dip after the first epoch"]
    assert dip["ours"] == pytest.approx(-0.11) and dip["verdict"] == "holds"
    assert found["class means scaled to log posteriors do not dip"]["verdict"] == "holds"
    assert found["random ends far behind class means"]["verdict"] == "holds"
    assert not any("copied" in statement for statement in found)
    learning = [*runs, run_of(frozen_training.RANDOM, [0, 0.2, 0.3], rate=1)]
    record = records.Record(study.CHAPTER, data={}, seeds=[0], at="study")
    frozen_tables.claim(record, [*learning, run_of(frozen_training.MEANS, [0.2, 0.2, 0.2], rate=1)])
    gated = [row for row in record.claims if "random ends" in row["statement"]]
    assert [row["verdict"] for row in gated] == ["holds", "not testable here"]


def test_tables_and_pictures_of_what_has_finished():
    runs = [run_of(frozen_training.MEANS, [0.24, 0.13, 0.22])]
    table = frozen_tables.table(runs, rate=0.1)
    assert table["accuracy"].loc["class mean"].tolist() == pytest.approx([0.26, 0.15, 0.24])
    assert table["cross-entropy"].loc["class mean"].tolist() == [1, 2, 3]
    assert frozen_tables.sentences(runs).startswith("1 trainings have finished. at 0.1 ")
    assert "0.260, 0.150, 0.240" in frozen_tables.sentences(runs)
    assert "900 training positions of 9 tokens" in frozen_tables.figure(runs, device="here").data
    assert "No training" in frozen_tables.figure([], device="here").data


def test_the_thesis_shares_stand_beside_ours():
    runs = [{"alphas": {"random": alpha, "copy": 0.2}} for alpha in (0.2, 0.4, 0.8)]
    alone = thesis.alphas([], runs)
    assert alone.loc[("small model, raw", "epoch 0")].tolist() == [0.4, 0.2]
    chosen = {"share, class mean + random": 0.8, "share, class mean + copy": 0.6}
    both = thesis.alphas([{"chosen": chosen}], runs)
    assert both.loc[("SmolLM2-135M, behind the norm", "epoch 0")].tolist() == [0.8, 0.6]
    assert both.loc[("OPT-350m, thesis", "all weights")].tolist() == [0.4, 0.6]
    assert len(both) == len(alone) + 1
    for curves in (thesis.FROZEN, thesis.ALL_WEIGHTS):
        assert curves.loc[0, "class mean"] > 4 * curves.loc[0, "copy"]
