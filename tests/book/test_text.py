"""The texts: splits that do not overlap, tokens that can be turned back, errors that help."""

import pytest
import torch

pytest.importorskip("tokenizers")

from eenotes_book.data import text


@pytest.fixture(scope="module")
def manual():
    return text.load("python-manual", vocabulary=300, length=16, train=4000, val=400, test=400)


def test_rows_counts_and_the_same_tokens_every_time(manual):
    assert manual.train.shape == (250, 16) and manual.val.shape == manual.test.shape == (25, 16)
    assert manual.counts == {"train": 4000, "val": 400, "test": 400}
    assert manual.vocabulary == 300 and len(manual.digest) == 16
    assert manual.train.dtype == torch.int64 and manual.train.max() < 300
    again = text.load("python-manual", vocabulary=300, length=16, train=4000, val=400, test=400)
    assert torch.equal(again.train, manual.train) and again.digest == manual.digest


def test_the_splits_are_all_of_the_manual_and_nothing_twice():
    from pydoc_data.topics import topics

    splits = text._manual()
    whole = "".join(splits[split] for split in ("train", "val", "test"))
    assert len(whole) == sum(map(len, topics.values())) + 2 * (len(topics) - 1)
    assert all(content in whole for content in topics.values())
    assert [round(len(part) / len(whole), 3) for part in splits.values()] == [0.8, 0.1, 0.1]


def test_there_and_back_and_with_a_ready_tokenizer(manual):
    sentence = "The is operator compares identities; naïve – ünïcode, too.\n"
    assert manual.decode(manual.encode(sentence)) == sentence
    options = {"length": 8, "train": 800, "val": 80, "test": 80}
    other = text.load("python-manual", **options, tokenizer=manual.tokenizer)
    assert torch.equal(other.train.flatten(), manual.train.flatten()[:800])


def test_wikitext_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_DATA", str(tmp_path))
    monkeypatch.delenv("EENOTES_DOWNLOAD", raising=False)
    missing = r"wiki.train.tokens does not exist.*EENOTES_DOWNLOAD=1"
    with pytest.raises(FileNotFoundError, match=missing):
        text.load("WikiText-2")
    (tmp_path / "wikitext-2").mkdir()
    for split in ("train", "valid", "test"):
        path = tmp_path / "wikitext-2" / f"wiki.{split}.tokens"
        path.write_text(f" = {split} = \n a few words of <unk> \n" * 30, encoding="utf-8")
    found = text.load("WikiText-2", vocabulary=260, length=4)
    assert "= valid =" in found.decode(found.val.flatten())
    ready = text.load("WikiText-2", length=4, tokenizer=found.tokenizer)
    assert ready.decode(ready.val.flatten()).startswith("= valid =\na few words")


def test_wikitext_as_people_write():
    words = ' = A = \n It \'s " a 1 @,@ 000 @.@ 5 @-@ metre ( $ 3 ) <unk> " , he said ; why ? \n'
    assert text.natural(words) == ('= A =\nIt\'s "a 1,000.5-metre ($3) <unk>", he said; why?\n')


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("Moby-Dick", {}, "unknown text"),
        ("python-manual", {"vocabulary": 100}, "above 256"),
        ("python-manual", {"train": -5}, "train=-5"),
        ("python-manual", {"vocabulary": 300, "length": 64, "test": 10}, "fewer than one row"),
    ],
)
def test_bad_input(name, options, message):
    with pytest.raises(ValueError, match=message):
        text.load(name, **options)
