"""Class-aware initialisation on tiny random models of four families, against sums written out by
hand.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

transformers = pytest.importorskip("transformers")

from eenotes.exits import ClassMeanExit  # noqa: E402
from eenotes.gaussian import detect, linear_discriminant  # noqa: E402
from eenotes.language import exits, fine_tuning, initialisation  # noqa: E402

V, DEPTH = 40, 4
COMMON = {
    "vocab_size": V,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "hidden_size": 16,
}
OPT = COMMON | {"ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.3, "dropout": 0.1}
ROTARY = COMMON | {
    "intermediate_size": 32,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GPT2 = {
    "vocab_size": V,
    "n_embd": 16,
    "n_layer": DEPTH,
    "n_head": 2,
    "n_positions": 64,
    "initializer_range": 0.3,
}
MODELS = {
    "opt tied": lambda: transformers.OPTForCausalLM(transformers.OPTConfig(**OPT)),
    "opt untied": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(**OPT | {"tie_word_embeddings": False})
    ),
    "opt like 350m": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(**OPT | {"word_embed_proj_dim": 8, "do_layer_norm_before": False})
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**ROTARY)),
    "neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**ROTARY)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=1)
    ),
    "gpt2 with bias": lambda: with_bias(MODELS["gpt2"]()),
}
each_model = pytest.mark.parametrize("name", MODELS)


def with_bias(model):
    head = torch.nn.Linear(16, V)
    head.weight = model.lm_head.weight
    model.lm_head = head
    return model


def made(name, seed=0):
    torch.manual_seed(seed)
    return MODELS[name]().eval()


def text(rows=6, length=12, seed=0):
    # the last five never occur
    return torch.randint(0, V - 5, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def opt():
    return made("opt tied")


# --- any model


@each_model
def test_hidden_states_are_the_models_own(name):
    model, ids = made(name), text()
    expected = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    for at in range(1, DEPTH):
        torch.testing.assert_close(exits.hidden_states(model, ids, at=at), expected[at])


@each_model
def test_exit_and_final_logits_and_the_model_is_as_before(name, unchanged):
    model, ids = made(name), text()
    expected = model(input_ids=ids).logits
    with unchanged(model):
        exited = exits.attach(model, at=2).eval()
        hidden, final = exited(ids)
        assert hidden.shape == final.shape == (6, 12, V)
        torch.testing.assert_close(final, expected)
        torch.testing.assert_close(exited.exit_logits(ids), hidden)
        torch.testing.assert_close(model(input_ids=ids).logits, expected)


@each_model
def test_a_copied_head_after_the_last_norm_is_the_final_head(name):
    """On what the final head sees, the copy says what the final head says: norm, projection, bias
    and all.
    """
    model, ids = made(name), text()
    parts = exits.anatomy(model)
    last = exits.hidden_states(model, ids, at=DEPTH)
    last = last if parts.final_norm is None else parts.final_norm(last)
    weight, bias = initialisation.copied_head(model)
    assert weight.shape == (V, 16)
    torch.testing.assert_close(
        last @ weight.T + bias, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
    )


@each_model
def test_all_five_initialisations(name):
    exited, ids = exits.attach(made(name), at=2).eval(), text()
    found, heads = initialisation.statistics(exited, [ids]), {}
    for how in initialisation.INITIALISATIONS:
        assert initialisation.initialise(exited, how, found=found, alpha=0.25) is exited
        heads[how] = (
            exited.exit_head.linear.weight.detach().clone(),
            exited.exit_head.linear.bias.detach().clone(),
        )
        assert exited(ids)[0].isfinite().all()
    for i, tensor in enumerate(heads["class mean + copy"]):
        torch.testing.assert_close(tensor, 0.25 * heads["class mean"][i] + 0.75 * heads["copy"][i])
    for i, tensor in enumerate(heads["class mean + random"]):
        torch.testing.assert_close(
            tensor, 0.25 * heads["class mean"][i] + 0.75 * heads["random"][i]
        )


@pytest.mark.parametrize("name", [name for name in MODELS if name != "opt like 350m"])
def test_the_final_norm_is_copied_not_shared(name):
    model, ids = made(name), text()
    exited = exits.attach(model, at=2, norm=True).eval()
    hidden = exits.hidden_states(model, ids, at=2)
    torch.testing.assert_close(exited.features(ids), exits.anatomy(model).final_norm(hidden))
    assert not {id(p) for p in exited.exit_head.parameters()} & {id(p) for p in model.parameters()}


def test_exit_like_350m_has_no_norm_to_copy():
    with pytest.raises(ValueError, match="no final norm"):
        exits.attach(made("opt like 350m"), at=2, norm=True)


@pytest.mark.parametrize("at", [0, DEPTH, -1, 1.5, True])
def test_exit_out_of_range(opt, at):
    with pytest.raises(ValueError, match="after decoder 1..3"):
        exits.attach(opt, at=at)


def test_what_is_no_language_model():
    with pytest.raises(TypeError, match="not a causal language model"):
        exits.attach(torch.nn.Linear(2, 2), at=1)


# --- statistics by hand


def by_hand(model, ids, target):
    """(class → list of its vectors) with plain loops."""
    classes = {}
    for row, hidden in zip(
        ids.tolist(), exits.hidden_states(model, ids, at=2).detach(), strict=True
    ):
        for position, token in enumerate(row):
            label = (
                token
                if target == "input"
                else row[position + 1]
                if position + 1 < len(row)
                else None
            )
            if label is not None:
                classes.setdefault(label, []).append(hidden[position])
    return classes


@pytest.mark.parametrize("target", ["next", "input"])
def test_means_counts_prior_and_n0_by_hand(opt, target):
    ids = text()
    found, expected = (
        initialisation.statistics(exits.attach(opt, at=2).eval(), ids.split(2), target=target),
        by_hand(opt, ids, target),
    )
    total = sum(map(len, expected.values()))
    assert total == (66 if target == "next" else 72)
    squares = 0.0
    for v in range(V):
        vectors = expected.get(v, [])
        assert found.counts[v] == len(vectors)
        assert found.prior()[v].item() == pytest.approx(
            (len(vectors) + 0.5) / (total + V / 2), rel=1e-5
        )
        if vectors:
            mean = torch.stack(vectors).mean(0)
            torch.testing.assert_close(found.class_means[v], mean, rtol=1e-4, atol=1e-5)
            squares += sum((vector - mean).square().sum().item() for vector in vectors)
    assert found.plug_in_n0() == pytest.approx(2 * squares / (total - len(expected)) / 16, rel=1e-4)


def test_weight_and_bias_by_hand(opt):
    found = initialisation.statistics(exits.attach(opt, at=2).eval(), [text()])
    unseen = torch.full((V, 16), 7.0)
    weight, bias = initialisation.class_mean_head(found, n0=0.6, unseen=unseen)
    v = int(found.counts.argmax())
    assert torch.equal(weight[v], found.class_means[v])
    expected = 0.3 * math.log(found.prior()[v]) - 0.5 * found.class_means[v].square().sum().item()
    assert bias[v].item() == pytest.approx(expected, rel=1e-5)
    # unseen tokens take the weight they are given, in the units of the rest
    torch.testing.assert_close(weight[-5:], 0.3 * unseen[-5:])
    assert bias[-1].item() == pytest.approx(0.3 * math.log(0.5 / (66 + V / 2)), rel=1e-5), (
        "and the floor of the smoothed prior"
    )
    scaled = initialisation.class_mean_head(found, n0=0.6, unseen=unseen, scale=True)
    torch.testing.assert_close(scaled[0], weight * 2 / 0.6)
    torch.testing.assert_close(scaled[1], bias * 2 / 0.6)


def test_scaling_does_not_change_a_decision(opt):
    exited = exits.attach(opt, at=2).eval()
    found, (features, _) = (
        initialisation.statistics(exited, [text()]),
        fine_tuning.collect(exited, [text(seed=1)]),
    )
    for unseen in (None, initialisation.copied_head(opt)[0]):
        plain, scaled = (
            detect(features, *initialisation.class_mean_head(found, scale=scale, unseen=unseen))
            for scale in (False, True)
        )
        assert torch.equal(plain, scaled)


def test_without_prior_it_is_the_exit_of_chapter_2(opt):
    """E²CM and class-aware initialisation are one detector: with the prior's weight at 0 they name
    the same token everywhere.
    """
    exited = exits.attach(opt, at=2).eval()
    found, (features, _) = (
        initialisation.statistics(exited, [text(rows=40)]),
        fine_tuning.collect(exited, [text(seed=1)]),
    )
    seen = found.seen.nonzero().flatten()
    weight, bias = initialisation.class_mean_head(found, n0=1e-9)
    nearest = ClassMeanExit(found.class_means[seen])(features).argmax(1)
    assert torch.equal(detect(features, weight[seen], bias[seen]), nearest)


def test_ignored_labels_are_in_no_class(opt):
    ids = text()
    labels = ids.clone()
    labels[:, :6] = exits.IGNORED
    found = initialisation.statistics(exits.attach(opt, at=2).eval(), [(ids, labels)])
    assert torch.equal(found.counts, torch.bincount(ids[:, 6:].flatten(), minlength=V))


def test_the_covariance_by_hand(opt):
    ids = text()
    found, residuals = (
        initialisation.statistics(exits.attach(opt, at=2).eval(), ids.split(1), covariance=True),
        [],
    )
    for vectors in by_hand(opt, ids, "next").values():
        stacked = torch.stack(vectors).double()
        residuals.append(stacked - stacked.mean(0))
    residuals = torch.cat(residuals)
    expected = residuals.T @ residuals / (66 - int(found.seen.sum()))
    torch.testing.assert_close(found.within_covariance(), expected, rtol=1e-3, atol=1e-4)
    assert 2 * found.within_covariance().diagonal().mean().item() == pytest.approx(
        found.plug_in_n0(), rel=1e-4
    )


def test_whitening_is_the_discriminant_of_that_covariance(opt):
    """With N₀ the covariance is multiplied until its mean eigenvalue is N₀/2."""
    found = initialisation.statistics(
        exits.attach(opt, at=2).eval(), [text(rows=60)], covariance=True
    )
    n0 = 3 * found.plug_in_n0()
    weight, bias = initialisation.class_mean_head(found, whiten=True, n0=n0)
    covariance = 3 * found.within_covariance()
    assert 2 * covariance.diagonal().mean().item() == pytest.approx(n0, rel=1e-4)
    expected = linear_discriminant(found.class_means.double(), covariance, prior=found.prior())
    seen = found.seen
    torch.testing.assert_close(weight[seen].double(), expected[0][seen], rtol=0.05, atol=0.01)
    torch.testing.assert_close(bias[seen].double(), expected[1][seen], rtol=0.05, atol=0.01)


def test_statistics_hold_one_array_of_tokens_by_width_however_long_the_text(opt):
    exited, sizes = exits.attach(opt, at=2).eval(), []
    for count in (1, 9):
        state = initialisation.statistics(
            exited, (text(seed=i) for i in range(count))
        ).means.metric_state
        assert {name: tuple(value.shape) for name, value in state.items()} == {
            "sums": (V, 16),
            "counts": (V,),
            "squares": (),
        }
        sizes.append(sum(value.numel() * value.element_size() for value in state.values()))
    assert sizes[0] == sizes[1] <= 1.2 * V * 16 * 4


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 1000))
def test_the_split_into_batches_does_not_matter(opt, sizes, seed):
    ids, exited = text(rows=sum(sizes), length=5, seed=seed), exits.attach(opt, at=1).eval()
    whole, parts = (
        initialisation.statistics(exited, [ids]),
        initialisation.statistics(exited, iter(ids.split(sizes))),
    )
    assert torch.equal(whole.counts, parts.counts)
    torch.testing.assert_close(whole.class_means, parts.class_means, rtol=1e-4, atol=1e-4)
    assert whole.means.squares.item() == pytest.approx(parts.means.squares.item(), rel=1e-4)


def _work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    exited = exits.attach(made("opt tied"), at=2).eval()
    # three rows here, two there
    found = initialisation.statistics(exited, text(rows=5)[rank::2].split(1), covariance=True)
    torch.save(
        [*initialisation.class_mean_head(found), found.within_covariance(), found.counts],
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    torch.multiprocessing.start_processes(_work, (str(tmp_path),), nprocs=2, start_method="fork")
    found = initialisation.statistics(
        exits.attach(made("opt tied"), at=2).eval(), [text(rows=5)], covariance=True
    )
    expected = [*initialisation.class_mean_head(found), found.within_covariance(), found.counts]
    for rank in range(2):
        for mine, theirs in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


# --- bad input


def test_empty_and_foreign_texts(opt):
    exited = exits.attach(opt, at=2).eval()
    with pytest.raises(ValueError, match="corpus .* is empty"):
        initialisation.statistics(exited, [])
    with pytest.raises(ValueError, match="every label is ignored"):
        initialisation.statistics(exited, [(text(), torch.full((6, 12), exits.IGNORED))])
    with pytest.raises(ValueError, match="the head 40 tokens: another tokenizer"):
        initialisation.statistics(exited, [torch.tensor([[3, V]])])
    with pytest.raises(ValueError, match="training mode"):
        initialisation.statistics(exits.attach(made("opt tied"), at=2).train(), [text()])
    with pytest.raises(ValueError, match="'next' or 'input'"):
        initialisation.statistics(exited, [text()], target="previous")


def test_bad_numbers(opt):
    exited = exits.attach(opt, at=2).eval()
    found = initialisation.statistics(exited, [text()])
    for n0 in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="n0 must be a positive number"):
            initialisation.class_mean_head(found, n0=n0)
    for alpha in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\]"):
            initialisation.initialise(exited, "class mean + copy", found=found, alpha=alpha)
    with pytest.raises(ValueError, match="smoothing must be positive"):
        found.prior(smoothing=0)
    with pytest.raises(ValueError, match="needs found=statistics"):
        initialisation.initialise(exited, "class mean")
    with pytest.raises(ValueError, match="must be one of random, copy"):
        initialisation.initialise(exited, "zeros")
    with pytest.raises(ValueError, match="shape of the class means"):
        initialisation.class_mean_head(found, unseen=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="covariance=True"):
        found.within_covariance()
    with pytest.raises(ValueError, match="NaN or infinite"):
        exits.load(exited, (torch.full((V, 16), math.nan), torch.zeros(V)))
    with pytest.raises(ValueError, match="the exit's weight is"):
        exits.load(exited, (torch.zeros(3, 3), torch.zeros(3)))
    with pytest.raises(ValueError, match="no token occurs twice"):
        initialisation.statistics(exited, [torch.tensor([[1, 2, 3]])]).plug_in_n0()


@given(st.floats(0, 1))
def test_a_mixture_lies_between(alpha):
    first, other = (torch.zeros(2, 3), torch.zeros(2)), (torch.ones(2, 3), torch.full((2,), 2.0))
    weight, bias = initialisation.mix(first, other, alpha=alpha)
    torch.testing.assert_close(weight, torch.full((2, 3), 1 - alpha))
    torch.testing.assert_close(bias, torch.full((2,), 2 * (1 - alpha)))


def test_mix_of_different_heads():
    with pytest.raises(ValueError, match="differ in shape"):
        initialisation.mix(
            (torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(3, 3), torch.zeros(3)), alpha=0.5
        )


def test_choosing():
    assert initialisation.choose([1.0, 2.0, 3.0], lambda x: -abs(x - 2)) == (
        2.0,
        {1.0: -1.0, 2.0: 0.0, 3.0: -1.0},
    )
    with pytest.raises(ValueError, match="no candidate"):
        initialisation.choose([], float)


# --- training


def test_evaluation_by_hand(opt):
    exited, ids = exits.attach(opt, at=2).eval(), text(rows=3)
    found = fine_tuning.evaluate(exited, ids.split(2))
    for name, logits in zip(("exit", "final"), exited(ids), strict=True):
        right = (logits[:, :-1].argmax(-1) == ids[:, 1:]).float().mean().item()
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        ).item()
        assert found[f"{name}_accuracy"] == pytest.approx(right)
        assert found[f"{name}_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    features, labels = fine_tuning.collect(exited, ids.split(2))
    linear = exited.exit_head.linear
    assert fine_tuning.accuracy(
        features, labels, (linear.weight.detach(), linear.bias.detach())
    ) == pytest.approx(found["exit_accuracy"])


OPTIONS = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01}


@pytest.mark.parametrize("name", ["opt tied", "llama"])
def test_freezing_trains_the_exit_alone(name, unchanged):
    model, ids = made(name), text()
    exited = initialisation.initialise(exits.attach(model, at=2), "copy").eval()
    before = exited.exit_head.linear.weight.detach().clone()
    with unchanged(model):
        history = fine_tuning.train(exited, ids, freeze=True, held_out=ids, **OPTIONS)
    assert not torch.equal(before, exited.exit_head.linear.weight)
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]
    assert history[-1]["exit_perplexity"] < history[0]["exit_perplexity"]
    assert history[-1]["final_perplexity"] == history[0]["final_perplexity"]


def test_features_at_hand_change_nothing():
    ids, histories = text(), []
    for given_features in (False, True):
        exited = initialisation.initialise(exits.attach(made("opt tied"), at=2), "copy").eval()
        features = fine_tuning.collect(exited, ids.split(3)) if given_features else None
        histories.append(
            fine_tuning.train(exited, ids, freeze=True, held_out=ids, features=features, **OPTIONS)
        )
    assert histories[0][-1]["exit_perplexity"] == pytest.approx(
        histories[1][-1]["exit_perplexity"], rel=1e-4
    )


def test_without_freezing_everything_learns():
    model, ids = made("gpt2"), text()
    exited = initialisation.initialise(exits.attach(model, at=2), "copy").eval()
    before = {name: p.detach().clone() for name, p in exited.named_parameters()}
    history = fine_tuning.train(exited, ids, freeze=False, held_out=ids, **OPTIONS)
    assert all(not torch.equal(before[name], p) for name, p in exited.named_parameters())
    for name in ("exit", "final"):
        assert history[-1][f"{name}_perplexity"] < history[0][f"{name}_perplexity"]
    assert not exited.training
    assert "forward" not in vars(exited), "accelerate's wrapper has left"


def test_epoch_zero_is_before_training_and_a_seed_repeats():
    ids, runs = text(), []
    for _ in range(2):
        exited = initialisation.initialise(
            exits.attach(made("opt tied"), at=2), "random", seed=3
        ).eval()
        start = fine_tuning.evaluate(exited, [ids])
        runs.append(fine_tuning.train(exited, ids, freeze=False, held_out=ids, seed=5, **OPTIONS))
        assert runs[-1][0] == pytest.approx({"epoch": 0, **start}, rel=1e-5)
    assert runs[0] == runs[1]


def test_training_on_nothing(opt):
    exited = exits.attach(opt, at=2)
    with pytest.raises(ValueError, match="need text"):
        fine_tuning.train(exited, text()[:0], freeze=True, held_out=text(), **OPTIONS)
