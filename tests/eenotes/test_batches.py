"""Padding, masks and labels: the numbers of padded text are those of the text alone."""

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("transformers")

from eenotes.language import evaluation, exits, initialisation, token_statistics
from eenotes.language.batches import IGNORED, read
from eenotes_book import fine_tuning

V, PAD = 40, 38
LENGTHS = (12, 5, 9, 2)
SIDES = ("left", "right", "both")
OPTIONS = {"epochs": 2, "batch_size": 2, "learning_rate": 0.01}


@pytest.fixture
def exited(made, name):
    model = made(name)
    model.config.pad_token_id = PAD
    return initialisation.initialise(exits.attach(model, at=2), "copy")


@pytest.fixture
def texts(text):
    """Rows of different lengths."""
    return [row[:length] for row, length in zip(text(), LENGTHS, strict=False)]


def padded(texts, side: str) -> dict[str, torch.Tensor]:
    """The texts in rows of 15, with mask and labels."""
    ids = torch.full((len(texts), 15), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(texts):
        first = {"left": 15 - len(row), "right": 0, "both": 2}[side]
        ids[i, first : first + len(row)] = row
        mask[i, first : first + len(row)] = 1
    labels = ids.masked_fill(mask == 0, IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def forms(batch: dict[str, torch.Tensor]) -> list:
    """The same text with mask, with labels, with both, and with neither."""
    ids, labels = batch["input_ids"], batch["labels"]
    masked = {"input_ids": ids, "attention_mask": batch["attention_mask"]}
    return [batch, masked, (ids, labels), ids]


@pytest.mark.parametrize("side", SIDES)
def test_statistics_collecting_and_evaluating(exited, texts, side):
    alone = [row[None] for row in texts]
    means = token_statistics.statistics(exited, alone)
    inputs = token_statistics.statistics(exited, alone, target="input")
    features, labels = evaluation.collect(exited, alone)
    scores = evaluation.evaluate(exited, alone)
    for batch in forms(padded(texts, side)):
        found = token_statistics.statistics(exited, [batch])
        assert torch.equal(found.counts, means.counts)
        assert_close(found.class_means, means.class_means, rtol=1e-4, atol=1e-5)
        found = token_statistics.statistics(exited, [batch], target="input")
        assert_close(found.class_means, inputs.class_means, rtol=1e-4, atol=1e-5)
        collected = evaluation.collect(exited, [batch])
        assert_close(collected[0], features, rtol=1e-4, atol=1e-5)
        assert torch.equal(collected[1], labels)
        assert evaluation.evaluate(exited, [batch]) == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize("freeze", [True, False])
def test_training(made, texts, freeze):
    """Every side and form learns the same; a row without labels changes nothing."""
    histories, held_out = [], [row[None] for row in texts]
    for side in SIDES:
        batch = padded(texts, side)
        for data in (batch, (batch["input_ids"], batch["labels"])):
            model = made("gpt2")
            model.config.pad_token_id = PAD
            exited = initialisation.initialise(exits.attach(model, at=2), "copy")
            history = fine_tuning.train(exited, data, freeze=freeze, held_out=data, **OPTIONS)
            assert history[-1]["exit_perplexity"] < history[0]["exit_perplexity"]
            assert history[-1] | {"epoch": 2} == pytest.approx(
                {"epoch": 2, **evaluation.evaluate(exited, held_out)}, rel=1e-4
            )
            histories.append(history[-1])
    for history in histories:
        assert history == pytest.approx(histories[0], rel=1e-3)


def test_rows_without_labels_are_left_out_of_training(made, text):
    ids, labels, found = text(), text(), []
    labels[[1, 4]] = IGNORED
    for batch in ((ids, labels), ids[[0, 2, 3, 5]]):
        exited = initialisation.initialise(exits.attach(made("llama"), at=2), "copy")
        found.append(
            fine_tuning.train(
                exited, batch, freeze=False, held_out=ids, **OPTIONS | {"batch_size": 1}
            )
        )
    assert found[0][-1] == pytest.approx(found[1][-1], rel=1e-5)


def test_labels_choose_positions_and_tokens_stay_context(made, text):
    """An ignored prompt is read, but not counted."""
    exited, ids, labels = exits.attach(made("llama"), at=2), text(), text()
    labels[:, :7] = IGNORED
    features, _ = evaluation.collect(exited, [(ids, labels)])
    assert_close(features, exited.features(ids)[:, 6:-1].flatten(0, 1))


def test_a_pad_that_ends_texts_is_a_token(made, text):
    model, ids = made("llama"), text()
    ids[:, -2:] = model.config.eos_token_id
    model.config.pad_token_id = model.config.eos_token_id
    assert torch.equal(read(ids, model, vocabulary=V)[1], ids)


def test_rows_are_read_as_they_are(made):
    model = made("llama")
    model.config.pad_token_id = PAD
    ids = torch.tensor([[PAD, 1, 2], [3, 4, PAD]])
    labels = ids.masked_fill(ids == PAD, IGNORED)
    (batch,) = fine_tuning.rows(ids, labels, 2)
    for found, expected in zip(read(batch, model, vocabulary=V), (ids, labels), strict=True):
        assert torch.equal(found, expected)


def test_all_labels_ignored_is_what_is_said(made, text):
    exited, ids = exits.attach(made("llama"), at=2), text()
    ignored = torch.full_like(ids, IGNORED)
    for function in (token_statistics.statistics, evaluation.collect, evaluation.evaluate):
        with pytest.raises(ValueError, match="ignored"):
            function(exited, [(ids, ignored)])
    for freeze in (True, False):
        with pytest.raises(ValueError, match="ignored"):
            fine_tuning.train(exited, (ids, ignored), freeze=freeze, held_out=ids, **OPTIONS)
    with pytest.raises(ValueError, match="label of the batch is ignored"):
        fine_tuning.lm_loss(exited(ids)[1], ignored)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda ids: (ids, ids, ids), TypeError, "must be a tensor of token numbers.*got tuple"),
        (lambda ids: ids.numpy(), TypeError, "got ndarray"),
        (lambda ids: {"ids": ids}, TypeError, "input_ids"),
        (lambda ids: (ids, ids[:, 1:]), ValueError, "labels must be like the tokens"),
        (lambda ids: (ids, ids + V), ValueError, "another tokenizer"),
        (lambda ids: {"input_ids": ids, "attention_mask": ids[0]}, ValueError, "attention_mask"),
    ],
)
def test_bad_batches(made, text, change, error, message):
    exited = exits.attach(made("llama"), at=2)
    for function in (token_statistics.statistics, evaluation.collect, evaluation.evaluate):
        with pytest.raises(error, match=message):
            function(exited, [change(text())])


def test_features_of_another_text(made, text):
    exited = exits.attach(made("llama"), at=2)
    features = evaluation.collect(exited, [text(seed=1)])
    with pytest.raises(ValueError, match="collect them on the same text"):
        fine_tuning.train(
            exited, text(), freeze=True, held_out=text(), features=features, **OPTIONS
        )
