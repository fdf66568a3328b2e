"""Exits of language models: tiny random models of four families, against sums written by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

pytest.importorskip("transformers")

from eenotes.exits import ClassMeanExit
from eenotes.gaussian import linear_discriminant
from eenotes.language import batches, evaluation, exits, initialisation, token_statistics
from eenotes_book import fine_tuning

V, DEPTH = 40, 4


@pytest.fixture(scope="module")
def opt(made):
    return made("opt tied")


@pytest.fixture(scope="module")
def exited(opt):
    return exits.attach(opt, at=2).eval()


# --- any model


def test_hidden_states_are_the_models_own(name, made, text):
    model, ids = made(name), text()
    expected = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    for at in range(1, DEPTH):
        assert_close(exits.hidden_states(model, ids, at=at), expected[at])


def test_exit_and_final_logits_and_the_model_is_as_before(name, made, text, unchanged):
    model, ids = made(name), text()
    expected = model(input_ids=ids).logits
    with unchanged(model):
        exited = exits.attach(model, at=2).eval()
        early, final = exited(ids)
        assert early.shape == final.shape == (6, 12, V)
        assert_close(final, expected)
        assert_close(exited.exit_logits(ids), early)
        assert_close(model(input_ids=ids).logits, expected)


def test_a_copied_head_after_the_last_norm_is_the_final_head(name, made, text):
    """On what the final head sees, the copy gives its logits: norm, projection, bias and all."""
    model, ids = made(name), text()
    norm = exits.anatomy(model).final_norm or torch.nn.Identity()
    weight, bias = initialisation.copied_head(model)
    assert weight.shape == (V, 16)
    logits = norm(exits.hidden_states(model, ids, at=DEPTH)) @ weight.T + bias
    assert_close(logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_all_five_initialisations(name, made, text):
    exited, ids = exits.attach(made(name), at=2).eval(), text()
    found, heads = token_statistics.statistics(exited, [ids]), {}
    linear = exited.exit_head.linear
    for how in initialisation.INITIALISATIONS:
        assert initialisation.initialise(exited, how, found=found, alpha=0.25) is exited
        heads[how] = [part.detach().clone() for part in (linear.weight, linear.bias)]
        assert exited(ids)[0].isfinite().all()
    for other in ("copy", "random"):
        for i, mixed in enumerate(heads[f"class mean + {other}"]):
            assert_close(mixed, 0.25 * heads["class mean"][i] + 0.75 * heads[other][i])


def test_the_final_norm_is_copied_not_shared(name, made, text):
    model, ids = made(name), text()
    if name == "opt like 350m":
        with pytest.raises(ValueError, match="no final norm"):
            exits.attach(model, at=2, norm=True)
        return
    exited = exits.attach(model, at=2, norm=True).eval()
    hidden = exits.hidden_states(model, ids, at=2)
    assert_close(exited.features(ids), exits.anatomy(model).final_norm(hidden))
    assert not {id(p) for p in exited.exit_head.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize("training", [True, False])
def test_attaching_keeps_the_mode_of_every_module(made, training):
    model = made("opt tied").train(training)
    model.model.decoder.layers[1].train(not training)
    before = [module.training for module in model.modules()]
    exited = exits.attach(model, at=2, norm=True)
    assert [module.training for module in model.modules()] == before
    assert {exited.training, exited.exit_head.training, exited.exit_head.norm.training} == {
        training
    }


@pytest.mark.parametrize("at", [0, DEPTH, -1, 1.5, True])
def test_exit_out_of_range(opt, at):
    with pytest.raises(ValueError, match="after decoder 1..3"):
        exits.attach(opt, at=at)


def test_what_is_no_language_model():
    with pytest.raises(TypeError, match="not a causal language model"):
        exits.attach(torch.nn.Linear(2, 2), at=1)


# --- statistics and heads by hand


def by_hand(model, ids, target):
    """Class → list of its vectors, with plain loops."""
    classes, hidden = {}, exits.hidden_states(model, ids, at=2).detach()
    for row, vectors in zip(ids.tolist(), hidden, strict=True):
        pairs = zip(row, vectors, strict=True) if target == "input" else zip(row[1:], vectors)  # noqa: B905
        for label, vector in pairs:
            classes.setdefault(label, []).append(vector)
    return classes


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("target", ["next", "input"])
def test_means_counts_prior_and_noise_by_hand(exited, text, target, covariance):
    ids = text()
    found = token_statistics.statistics(exited, ids.split(2), target=target, covariance=covariance)
    expected = by_hand(exited.model, ids, target)
    total = sum(map(len, expected.values()))
    assert total == (66 if target == "next" else 72)
    products = torch.zeros(16, 16, dtype=torch.float64)
    for v in range(V):
        vectors = expected.get(v, [])
        assert found.counts[v] == len(vectors)
        prior = (len(vectors) + 0.5) / (total + V / 2)
        assert found.prior[v].item() == pytest.approx(prior, rel=1e-5)
        if vectors:
            stacked = torch.stack(vectors).double()
            assert_close(found.class_means[v].double(), stacked.mean(0), rtol=1e-4, atol=1e-5)
            residuals = stacked - stacked.mean(0)
            products += residuals.T @ residuals
    degrees = total - len(expected)
    n0 = 2 * products.trace().item() / degrees / 16
    assert found.plug_in_n0() == pytest.approx(n0, rel=1e-4)
    if covariance:
        assert_close(found.covariance, products / total, rtol=1e-6, atol=1e-8)
        noise = found.noise_covariance(n0, shrinkage=1e-9)
        assert_close(noise, products / degrees, rtol=1e-4, atol=1e-6)


def test_weight_and_bias_by_hand(exited, text):
    found = token_statistics.statistics(exited, [text()])
    unseen = torch.full((V, 16), 7.0)
    weight, bias = initialisation.class_mean_head(found, n0=0.6, unseen=unseen)
    v = int(found.counts.argmax())
    assert torch.equal(weight[v], found.class_means[v])
    expected = 0.3 * math.log(found.prior[v]) - 0.5 * found.class_means[v].square().sum().item()
    assert bias[v].item() == pytest.approx(expected, rel=1e-5)
    # unseen tokens take the weight they are given, in the units of the rest, and the prior's floor
    assert_close(weight[-5:], 0.3 * unseen[-5:])
    assert bias[-1].item() == pytest.approx(0.3 * math.log(0.5 / (66 + V / 2)), rel=1e-5)
    scaled = initialisation.class_mean_head(found, n0=0.6, unseen=unseen, scale=True)
    assert_close(scaled[0], weight * 2 / 0.6)
    assert_close(scaled[1], bias * 2 / 0.6)


def test_without_prior_it_is_the_exit_of_chapter_2(exited, text):
    """E²CM and class-aware initialisation are one detector, up to the weight of the prior."""
    found = token_statistics.statistics(exited, [text(rows=40)])
    features, _ = evaluation.collect(exited, [text(seed=1)])
    seen = found.seen.nonzero().flatten()
    weight, bias = initialisation.class_mean_head(found, n0=1e-9)
    nearest = ClassMeanExit(found.class_means[seen])(features).argmax(1)
    assert torch.equal((features @ weight[seen].T + bias[seen]).argmax(1), nearest)


def test_ignored_labels_are_in_no_class(exited, text):
    ids, labels = text(), text()
    labels[:, :6] = batches.IGNORED
    found = token_statistics.statistics(exited, [(ids, labels)])
    assert torch.equal(found.counts, torch.bincount(ids[:, 6:].flatten(), minlength=V))


def test_whitening_is_the_discriminant_of_that_covariance(exited, text):
    """With N₀ the covariance is multiplied until its mean eigenvalue is N₀/2."""
    found = token_statistics.statistics(exited, [text(rows=60)], covariance=True)
    n0 = 3 * found.plug_in_n0()
    head = initialisation.class_mean_head(found, whiten=True, n0=n0)
    covariance = n0 / 2 / found.covariance.diagonal().mean() * found.covariance
    means, seen = found.class_means.double(), found.seen
    expected = linear_discriminant(means, covariance, prior=found.prior)
    for mine, theirs in zip(head, expected, strict=True):
        assert_close(mine[seen].double(), theirs[seen], rtol=0.05, atol=0.01)


def test_the_covariance_keeps_its_digits_far_from_zero(exited, text, monkeypatch):
    """A large coordinate that all vectors share, as big models have, changes no covariance."""
    ids = text(rows=40).split(10)
    expected = token_statistics.statistics(exited, ids, covariance=True).covariance
    features = exited.features
    far = 1000 * torch.eye(16)[3]
    monkeypatch.setattr(exited, "features", lambda batch: features(batch).double() + far)
    found = token_statistics.statistics(exited, ids, covariance=True).covariance
    assert_close(found, expected, rtol=1e-5, atol=1e-7)


# --- choices on validation text


def test_n0_is_the_candidate_with_the_most_accurate_head(exited, text):
    found = token_statistics.statistics(exited, [text(rows=60)], covariance=True)
    validation = evaluation.collect(exited, [text(rows=20, seed=1)])
    copied, _ = initialisation.copied_head(exited.model)
    for whiten in (False, True):
        n0, scores = initialisation.choose_n0(found, *validation, unseen=copied, whiten=whiten)
        factors = [value / found.plug_in_n0() for value in scores]
        assert factors == pytest.approx(list(initialisation.N0_FACTORS))
        head = initialisation.class_mean_head(found, n0=n0, unseen=copied, whiten=whiten)
        assert evaluation.accuracy(*validation, head) == max(scores.values()) == scores[n0]
        assert n0 == next(value for value in scores if scores[value] == scores[n0])


def test_alpha_is_the_candidate_with_the_most_accurate_mixture():
    features, labels = torch.eye(2).repeat(3, 1), torch.tensor([0, 1]).repeat(3)
    right = (torch.eye(2), torch.zeros(2))
    wrong = (1.9 * torch.eye(2).flip(0), torch.zeros(2))
    alpha, scores = initialisation.choose_mixture(right, wrong, features, labels)
    assert alpha == 0.8 and scores == {0.2: 0.0, 0.4: 0.0, 0.6: 0.0, 0.8: 1.0}


@given(st.floats(0, 1))
def test_a_mixture_lies_between(alpha):
    first, other = (torch.zeros(2, 3), torch.zeros(2)), (torch.ones(2, 3), torch.full((2,), 2.0))
    weight, bias = initialisation.mix(first, other, alpha=alpha)
    assert_close(weight, torch.full((2, 3), 1 - alpha))
    assert_close(bias, torch.full((2,), 2 * (1 - alpha)))


# --- bad input


def test_shrunken_means_by_hand():
    """σ² = 1; τ² = ((9 - 1) + (1 - 1/3)) / 2 = 13/3 around c = 0; an unseen token stays 0."""
    means, counts = torch.tensor([[3.0], [-1.0], [0.0]]), torch.tensor([1, 3, 0])
    found = token_statistics.Statistics(means, counts, scatter=2.0)
    expected = torch.tensor([[3 * 13 / 16], [-39 / 42], [0.0]])
    assert_close(found.shrunken().class_means, expected)
    far = token_statistics.Statistics(means + 5, counts, scatter=2.0).shrunken()
    assert_close(far.class_means[:2], expected[:2] + 5)


OPTIONS = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01}
NO_TEXT = {"freeze": True, **OPTIONS}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e, ids: token_statistics.statistics(e, []), "no batch has a sample"),
        (lambda e, ids: evaluation.collect(e, []), "no batch"),
        (lambda e, ids: evaluation.evaluate(e, []), "no batch"),
        (lambda e, ids: fine_tuning.train(e, ids[:0], held_out=ids, **NO_TEXT), "need text"),
        (lambda e, ids: token_statistics.statistics(e, [ids + V - 1]), "another tokenizer"),
        (lambda e, ids: token_statistics.statistics(e, [ids], target="previous"), "or 'input'"),
        (
            lambda e, ids: token_statistics.statistics(e, [torch.arange(3)[None]]).plug_in_n0(),
            "no token occurs twice",
        ),
    ],
)
def test_bad_texts(exited, text, call, words):
    with pytest.raises(ValueError, match=words):
        call(exited, text())


SMALL = (torch.zeros(3, 3), torch.zeros(3))
NAN = (torch.full((V, 16), math.nan), torch.zeros(V))
head, start = initialisation.class_mean_head, initialisation.initialise


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *[(lambda e, s, n=n: head(s, n0=n), "n0=.* must be in") for n in (0.0, -1.0, math.nan)],
        *[
            (
                lambda e, s, a=a: start(e, "class mean + copy", found=s, alpha=a),
                r"must be in \[0, 1\]",
            )
            for a in (-0.1, 1.1)
        ],
        (lambda e, s: start(e, "class mean"), "needs found=statistics"),
        (lambda e, s: start(e, "zeros"), "must be 'random', 'copy'"),
        (lambda e, s: head(s, unseen=torch.zeros(3, 3)), "like the class means"),
        (lambda e, s: head(s, whiten=True), "covariance=True"),
        (lambda e, s: exits.load(e, NAN), "NaN or infinite"),
        (lambda e, s: exits.load(e, SMALL), "the exit's weight is"),
        (lambda e, s: initialisation.mix(NAN, SMALL, alpha=0.5), "differ in shape"),
    ],
)
def test_bad_numbers(exited, text, call, words):
    with pytest.raises(ValueError, match=words):
        call(exited, token_statistics.statistics(exited, [text()]))


def test_statistics_are_taken_in_evaluation_mode(made, text):
    with pytest.raises(ValueError, match="training mode"):
        token_statistics.statistics(exits.attach(made("opt tied"), at=2).train(), [text()])


# --- training


def test_evaluation_by_hand(exited, text):
    ids = text(rows=3)
    found = evaluation.evaluate(exited, ids.split(2))
    for name, logits in zip(("exit", "final"), exited(ids), strict=True):
        right = (logits[:, :-1].argmax(-1) == ids[:, 1:]).float().mean().item()
        perplexity = fine_tuning.lm_loss(logits, ids).exp().item()
        assert found[f"{name}_accuracy"] == pytest.approx(right)
        assert found[f"{name}_perplexity"] == pytest.approx(perplexity, rel=1e-4)
    collected = evaluation.collect(exited, ids.split(2))
    linear = exited.exit_head.linear
    head = (linear.weight.detach(), linear.bias.detach())
    assert evaluation.accuracy(*collected, head) == pytest.approx(found["exit_accuracy"])
    assert evaluation.score(*collected, head) == pytest.approx(
        {what: found[f"exit_{what}"] for what in ("accuracy", "perplexity")}, rel=1e-4
    )


@pytest.mark.parametrize("kind", ["opt tied", "llama"])
def test_freezing_trains_the_exit_alone(kind, made, text, unchanged):
    ids, histories = text(), []
    for at_hand in (False, True):
        model = made(kind)
        exited = initialisation.initialise(exits.attach(model, at=2), "copy").eval()
        before = exited.exit_head.linear.weight.detach().clone()
        features = evaluation.collect(exited, ids.split(3)) if at_hand else None
        with unchanged(model):
            history = fine_tuning.train(
                exited, ids, freeze=True, held_out=ids, features=features, **OPTIONS
            )
        assert not torch.equal(before, exited.exit_head.linear.weight)
        assert [row["epoch"] for row in history] == [0, 1, 2, 3]
        assert history[-1]["exit_perplexity"] < history[0]["exit_perplexity"]
        assert history[-1]["final_perplexity"] == history[0]["final_perplexity"]
        histories.append(history[-1]["exit_perplexity"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)


def test_without_freezing_everything_learns(made, text):
    ids = text()
    exited = initialisation.initialise(exits.attach(made("gpt2"), at=2), "copy").eval()
    before = {name: p.detach().clone() for name, p in exited.named_parameters()}
    history = fine_tuning.train(exited, ids, freeze=False, held_out=ids, **OPTIONS)
    assert all(not torch.equal(before[name], p) for name, p in exited.named_parameters())
    for name in ("exit", "final"):
        assert history[-1][f"{name}_perplexity"] < history[0][f"{name}_perplexity"]
    assert not exited.training


def test_epoch_zero_is_before_training_and_a_seed_repeats(made, text):
    ids, runs = text(), []
    for _ in range(2):
        model = made("opt tied")
        exited = exits.attach(model, at=2).eval()
        exits.load(exited, initialisation.random_head(model, seed=3))
        start = {"epoch": 0, **evaluation.evaluate(exited, [ids])}
        only = fine_tuning.train(exited, ids, freeze=False, held_out=ids, **OPTIONS | {"epochs": 0})
        runs.append(fine_tuning.train(exited, ids, freeze=False, held_out=ids, seed=5, **OPTIONS))
        assert runs[-1][0] == only[0] == pytest.approx(start, rel=1e-5)
    assert runs[0] == runs[1]
