"""A pretrained language model: files that are refused, the features, and the race at epoch 0."""

import shutil
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

from eenotes.class_statistics import ClassMoments
from eenotes.language import evaluation, initialisation
from eenotes_book import settings
from eenotes_book.ch06_language import CHAPTER, epoch_zero, features, race, study
from eenotes_book.ch06_language import lens as lens_module
from eenotes_book.ch06_language.settings import PretrainedSettings
from eenotes_book.data import pretrained_language, text

V, D = 60, 8


@pytest.fixture(scope="module")
def channel():
    """Features of 48 seen and 12 unseen tokens in coloured noise, and their statistics."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(V, D, generator=generator) * 1.2 + 0.7
    labels = torch.multinomial(1 / torch.arange(1.0, V + 1), 700, True, generator=generator)
    noise = torch.randn(700, D, generator=generator) @ torch.randn(D, D, generator=generator)
    x = draw[labels] + 0.7 * noise
    return x, labels, _statistics(x[:300], labels[:300]), torch.randn(V, D, generator=generator)


def _statistics(x, labels):
    sums = ClassMoments(V)
    sums.update(x, labels)
    return epoch_zero.as_statistics(sums)


def test_one_product_gives_the_heads_of_the_package(channel):
    x, labels, found, copied = channel
    x, labels = x[300:], labels[300:]
    racers = {"all": (race.Racer(found), race.candidates())}
    groups = torch.stack([torch.ones(400, dtype=torch.bool), labels > 3], 1)
    right = race.count_right(x, labels, groups, copied_weight=copied, racers=racers)
    copy_head = copied, torch.zeros(V)
    for head, count in right["all"].items():
        metric, kind, factor, alpha = head
        if kind not in ("plain", "shrunken") or (metric == "whitened" and kind == "shrunken"):
            continue
        about = found if kind == "plain" else found.shrunken()
        n0 = factor * found.plug_in_n0()
        expected = initialisation.class_mean_head(
            about, n0=n0, unseen=copied, whiten=metric == "whitened"
        )
        if alpha < 1:
            expected = initialisation.mix(expected, copy_head, alpha=alpha)
        assert count[0] == round(400 * evaluation.accuracy(x, labels, expected)), head
    assert right["copy"]["copy"][0] == round(400 * evaluation.accuracy(x, labels, copy_head))
    assert all(count[1] <= count[0] for count in right["all"].values())


@pytest.mark.parametrize("whiten", [False, True])
def test_shrunken_means_and_the_predictive_density_by_hand(channel, whiten):
    x, _, found, _ = channel
    metric = race.Metric.of(found, whiten=whiten)
    counts, n0 = found.counts[found.seen].double(), found.plug_in_n0()
    means = found.class_means[found.seen].double()
    A = torch.eye(D, dtype=torch.float64)
    if whiten:
        A = torch.linalg.inv(found.noise_covariance(2.0, shrinkage=1e-4))
    centre, x = (counts @ means) / counts.sum(), x.double()
    shrunken = centre + (counts / (counts + metric.kappa))[:, None] * (means - centre)
    wider = 1 + 1 / (counts + metric.kappa)
    off = x[:, None] - shrunken
    distances, own = ((off @ A) * off).sum(-1) / n0, ((x @ A) * x).sum(1, keepdim=True) / n0
    expected = {
        "shrunken": own - distances,
        "predictive": own - distances / wider - D / 2 * wider.log(),
    }
    for kind, values in metric.log_likelihoods(x.float(), expected).items():
        torch.testing.assert_close(
            (values[0] + values[1][:, None]).double(), expected[kind], rtol=1e-4, atol=5e-3
        )


def test_statistics_of_two_texts_are_those_of_both(channel):
    x, labels, found, _ = channel
    parts = [_statistics(x[a:b], labels[a:b]) for a, b in ((0, 120), (120, 300))]
    both = epoch_zero.merged(parts)
    assert torch.equal(both.counts, found.counts)
    torch.testing.assert_close(both.class_means, found.class_means)
    torch.testing.assert_close(both.covariance, found.covariance)
    assert both.scatter == pytest.approx(found.scatter)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A random Llama that reads random tokens: everything that a study does, in a second."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    s = PretrainedSettings(
        model="small", precision="float32", length=12, exits=[2], train=100, others=40,
        val=20, test=20,
        few=8, raw=[2],
        lens=[2], lens_rows=100, lens_epochs=1, lens_rate=0.003,
    )  # fmt: skip
    split = {
        name: torch.randint(300, (5 * getattr(s, name) + 3, 12))
        for name in ("train", "val", "test")
    }
    words = text.Text("random", **split, tokenizer=_Words(), digest="random")
    return features.Pretrained(s, LlamaForCausalLM(config).eval(), words)


class _Words:
    def encode(self, words, add_special_tokens=False):
        return [1, 2, 3]


def test_features_are_those_of_the_exit(small, tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_CACHE", str(tmp_path))
    x, labels = features.collected(small.features("val", 1, at=2, norm=True, rows=3))
    ids = small.rows("val", 1)[:3]
    with torch.no_grad():
        hidden = small.model(ids, output_hidden_states=True).hidden_states[2]
        expected = small.model.model.norm(hidden)[:, :-1].flatten(0, 1)
    torch.testing.assert_close(x, expected)
    assert torch.equal(labels, ids[:, 1:].flatten())


def test_the_study_of_a_pretrained_model_and_its_steps(small, tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_CACHE", str(tmp_path))
    monkeypatch.setenv("EENOTES_STEPS", str(tmp_path / "steps"))
    monkeypatch.setattr(features, "load", lambda s: small)
    whole = replace(settings.load(CHAPTER, "study"), pretrained=small.settings)
    found = study.pretrained(whole)
    (normed,), (raw,), (lens,) = found["normed"], found["raw"], found["lens"]
    assert normed["all"]["tokens"] == 5 * 100 * 11 and raw["all"]["tokens"] == 5 * 40 * 11
    for draw in normed["draws"]:
        assert draw["positions"][0] == 20 * 11 >= draw["positions"][1]
        assert [draw[rows]["tokens"] for rows in ("20", "40", "draw")] == [220, 440, 1100]
        for one in (draw["draw"], draw["all"]):
            best = one["chosen"]["identity, plain"]
            curve = one["factors"]["identity"]
            assert best["right"][0] == curve[race.FACTORS.index(best["factor"])]
            assert curve[0] == one["plug-in"]["identity, plain"][0]
    assert "40" not in raw["draws"][0] and raw["draws"][0]["positions"][0] == 8 * 11
    assert all(row["copy"] == row["copy, float32"] for row in found["whole"]["draws"])
    assert all(row["tokens"] == 100 * 11 for row in lens["draws"])
    monkeypatch.setattr(features, "load", None)  # finished steps need no model
    assert study.pretrained(whole) == found


def test_a_lens_begins_as_the_copied_head_and_learns(small, tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_CACHE", str(tmp_path))
    x, labels = features.collected(small.features("train", 0, at=2, norm=False))
    labels = x[:, :4].argmax(1)  # what there is to learn
    right = []
    for rate in (0.0, 0.01):
        small.settings = replace(small.settings, lens_epochs=3, lens_rate=rate)
        taught = lens_module.trained(small, x, labels, seed=0)
        right.append(float(lens_module.right(small, taught, x, labels).float().mean()))
    normed = small.anatomy.final_norm(x) @ small.anatomy.head.weight.T
    assert right[0] == pytest.approx(float((normed.argmax(1) == labels).float().mean()))
    assert right[1] > right[0] + 0.1


# --- files


@pytest.fixture
def folder(small, tmp_path, monkeypatch):
    """``EENOTES_DATA/pretrained`` with a published model of two tokens too few, named small."""
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setenv("EENOTES_DATA", str(tmp_path))
    monkeypatch.delenv("EENOTES_DOWNLOAD", raising=False)
    folder = tmp_path / "pretrained"
    small.model.save_pretrained(folder / "small")
    words = text.train_tokenizer("a text of few words " * 9, vocabulary=270)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.save_pretrained(folder / "small")
    published = pretrained_language.Published("", "llama", 4, 16, len(tokenizer), "*.gguf")
    monkeypatch.setitem(pretrained_language.MODELS, "small", published)
    return folder


def test_a_published_model_from_a_folder(small, folder):
    model, tokenizer = pretrained_language.load("small", context=64)
    ids = torch.tensor([tokenizer.encode("few words of text")])
    assert not model.training and model.lm_head.weight.dtype == torch.float32
    torch.testing.assert_close(model(ids).logits, small.model(ids).logits)


@pytest.mark.parametrize(
    "change, context, message",
    [
        ({"tokens": 5}, 64, "the tokenizer in .* tokens, that of small 5"),
        ({"decoders": 6}, 64, "'llama' of 4 decoders of width 16; small is a 'llama' of 6"),
        ({"architecture": "opt"}, 64, "holds a 'llama' .* small is a 'opt'"),
        ({}, 9999, "at most 2048 tokens a row, not 9999"),
    ],
)
def test_another_model_is_refused(folder, monkeypatch, change, context, message):
    published = pretrained_language.MODELS["small"]
    monkeypatch.setitem(pretrained_language.MODELS, "small", replace(published, **change))
    with pytest.raises(ValueError, match=message):
        pretrained_language.load("small", context=context)


def test_no_file_and_a_gguf_file_of_another_architecture(folder):
    gguf = pytest.importorskip("gguf")
    shutil.rmtree(folder / "small")
    with pytest.raises(FileNotFoundError, match="no weights of small: put the folder small or"):
        pretrained_language.load("small", context=8)
    writer = gguf.GGUFWriter(folder / "other.gguf", "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="architecture 'gpt2', small is a 'llama'"):
        pretrained_language.load("small", context=8)
    with pytest.raises(ValueError, match="choose one of smollm2-135m, opt-125m"):
        pretrained_language.load("large", context=8)
