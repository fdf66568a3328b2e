"""Decoding with an exit: whatever is saved, the text must be the one that was promised."""

import pytest
import torch

pytest.importorskip("transformers")

from eenotes.language import decoding, exits, initialisation

AT, NEW, DEPTH, V = 2, 16, 4, 40


@pytest.fixture(scope="module")
def prompt(text):
    return text(rows=1)[0]


@pytest.fixture(scope="module")
def exited(made):
    """``exited(name)``: a model with the copied head as its exit."""

    def build(name, **options):
        return initialisation.initialise(exits.attach(made(name), at=AT, **options), "copy").eval()

    return build


def test_without_exits_and_with_drafts_the_text_is_plain_greedy(name, exited, prompt):
    model = exited(name)
    plain = decoding.greedy(model, prompt, max_new_tokens=NEW)
    for other in (
        decoding.early_exit(model, prompt, max_new_tokens=NEW, threshold=1.0),
        decoding.self_speculative(model, prompt, max_new_tokens=NEW),
    ):
        assert torch.equal(other.ids, plain.ids)
    assert len(plain.new) == NEW and plain.prompt == 12


def test_every_token_is_what_its_head_says_of_the_whole_prefix(name, exited, prompt):
    """Waiting tokens get later the keys and values that they would have got at once."""
    model = exited(name)
    sure = decoding.early_exit(model, prompt, max_new_tokens=NEW, threshold=1.0).confidence
    found = decoding.early_exit(model, prompt, max_new_tokens=NEW, threshold=sorted(sure)[NEW // 2])
    assert 0 < sum(found.early) < NEW
    with torch.no_grad():
        for i, early in enumerate(found.early):
            exit_logits, final_logits = model(found.ids[None, : 12 + i])
            assert (exit_logits if early else final_logits)[0, -1].argmax() == found.new[i]
            assert exit_logits[0, -1].softmax(0).max().item() == pytest.approx(
                found.confidence[i], abs=1e-4
            )


def test_when_all_tokens_exit_the_upper_half_runs_once(exited, prompt):
    found = decoding.early_exit(exited("opt tied"), prompt, max_new_tokens=NEW, threshold=0.0)
    assert found.early == [False] + [True] * (NEW - 1)
    assert found.layer_passes == NEW * AT + (DEPTH - AT)
    assert found.token_layers == (12 + NEW - 1) * AT + 12 * (DEPTH - AT)


def test_layers_of_plain_greedy(exited, prompt):
    model = exited("opt tied")
    for found in (
        decoding.greedy(model, prompt, max_new_tokens=NEW),
        decoding.early_exit(model, prompt, max_new_tokens=NEW, threshold=1.0),
    ):
        assert (found.layer_passes, found.token_layers) == (NEW * DEPTH, (12 + NEW - 1) * DEPTH)


def test_a_perfect_draft_is_accepted_whole(made, prompt):
    """Upper decoders that hand on what they get: the exit then says what the model says."""
    model = made("opt tied")
    for layer in exits.anatomy(model).decoders[AT:]:
        for last in (layer.self_attn.out_proj, layer.fc2):
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
    model = initialisation.initialise(exits.attach(model, at=AT, norm=True), "copy").eval()
    found = decoding.self_speculative(model, prompt, max_new_tokens=15, draft=4)
    # three drafts of 4, each with one token on top
    assert (found.drafted, found.acceptance) == (12, 1.0)
    assert found.early == ([True] * 4 + [False]) * 3
    # below the exit every token runs once, above it each draft is one pass
    assert found.layer_passes == 15 * AT + 3 * (DEPTH - AT)
    assert found.token_layers == (12 + 14) * DEPTH


def test_a_draft_ends_where_the_exit_is_unsure(exited, prompt):
    model = exited("llama")
    plain = decoding.greedy(model, prompt, max_new_tokens=NEW)
    never = decoding.self_speculative(model, prompt, max_new_tokens=NEW, threshold=1.1)
    assert (never.drafted, never.layer_passes) == (0, plain.layer_passes)
    always = decoding.self_speculative(model, prompt, max_new_tokens=NEW)
    sure = decoding.early_exit(model, prompt, max_new_tokens=NEW, threshold=1).confidence
    some = decoding.self_speculative(
        model, prompt, max_new_tokens=NEW, threshold=sorted(sure)[NEW // 2]
    )
    assert 0 < some.drafted < always.drafted
    assert torch.equal(some.ids, plain.ids) and torch.equal(never.ids, plain.ids)


def test_only_tokens_of_the_vocabulary_are_drafted(exited, prompt):
    model = exited("opt tied")
    plain = decoding.greedy(model, prompt, max_new_tokens=NEW)
    absent = torch.tensor([i for i in range(V) if i not in plain.new])
    found = decoding.self_speculative(model, prompt, max_new_tokens=NEW, vocabulary=absent)
    assert found.drafted and found.acceptance == 0 and torch.equal(found.ids, plain.ids)
    all_of_them = torch.randperm(V, generator=torch.Generator().manual_seed(0))
    found = decoding.self_speculative(model, prompt, max_new_tokens=NEW, vocabulary=all_of_them)
    assert found.early == decoding.self_speculative(model, prompt, max_new_tokens=NEW).early


def test_transformers_own_early_exit_drafts_as_ours(made, prompt):
    """`assistant_early_exit`, which Llama honours: the copied head behind a copied norm."""
    llama = made("llama")
    model = initialisation.initialise(exits.attach(llama, at=AT, norm=True), "copy").eval()
    ours = decoding.self_speculative(model, prompt, max_new_tokens=NEW)
    llama.generation_config.update(
        num_assistant_tokens=4,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )
    plain = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    theirs = llama.generate(prompt[None], assistant_early_exit=AT, max_new_tokens=NEW, **plain)
    assert torch.equal(ours.ids, theirs[0])
    assert ours.drafted


def allowed(scores, text, settings):
    """Scores ``(V,)`` of the next token under generation settings, written out by hand."""
    scores = scores.clone()
    for token in set(text.tolist()) if "repetition_penalty" in settings else ():
        factor = settings["repetition_penalty"]
        scores[token] *= factor if scores[token] < 0 else 1 / factor
    words = [[token] for token in settings.get("suppress_tokens", [])]
    words += settings.get("bad_words_ids", [])
    if "no_repeat_ngram_size" in settings:
        words += text.unfold(0, settings["no_repeat_ngram_size"], 1).tolist()
    if len(text) == 12:
        words += [[token] for token in settings.get("begin_suppress_tokens", [])]
    for *before, last in words:
        if text.tolist()[len(text) - len(before) :] == before:
            scores[last] = -torch.inf
    return scores


SETTINGS = [
    {"repetition_penalty": 1.8},
    {"no_repeat_ngram_size": 2},
    {"suppress_tokens": list(range(20))},
    {"begin_suppress_tokens": list(range(3, V))},
    {"bad_words_ids": [[i, j] for i in range(V) for j in range(V) if (i + j) % 3]},
    {"num_beams": 3, "eos_token_id": list(range(V)), "return_dict_in_generate": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: next(iter(settings)))
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_all_obey_the_models_generation_settings(kind, settings, exited, prompt):
    model = exited(kind)
    for name, value in settings.items():
        setattr(model.model.generation_config, name, value)
    text, free = prompt, prompt
    with torch.no_grad():
        for _ in range(NEW):
            scores = allowed(model.model(text[None]).logits[0, -1], text, settings)
            text = torch.cat([text, scores.argmax()[None]])
            free = torch.cat([free, model.model(free[None]).logits[0, -1].argmax()[None]])
    assert torch.equal(text, free) == ("num_beams" in settings)
    for found in (
        decoding.greedy(model, prompt, max_new_tokens=NEW),
        decoding.early_exit(model, prompt, max_new_tokens=NEW, threshold=1),
        decoding.self_speculative(model, prompt, max_new_tokens=NEW),
    ):
        assert torch.equal(found.ids, text)
    left = decoding.early_exit(model, prompt, max_new_tokens=4, threshold=0)
    with torch.no_grad():
        for i in range(1, 4):
            scores = model(left.ids[None, : 12 + i])[0][0, -1]
            assert left.new[i] == allowed(scores, left.ids[: 12 + i], settings).argmax()


@pytest.mark.parametrize(
    ("name", "value"),
    [("guidance_scale", 2.0), ("min_new_tokens", 3), ("prompt_lookup_num_tokens", 2)],
)
def test_settings_that_are_refused(name, value, exited, prompt):
    model = exited("llama")
    setattr(model.model.generation_config, name, value)
    for decode in (decoding.greedy, decoding.self_speculative):
        with pytest.raises(ValueError, match=r"set it to None in model\.generation_config"):
            decode(model, prompt, max_new_tokens=3)
    with pytest.raises(ValueError, match="the model's generation settings"):
        decoding.early_exit(model, prompt, max_new_tokens=3, threshold=0.5)


def test_pads_of_a_prompt_are_no_tokens(exited, prompt):
    model = exited("gpt2")
    plain = decoding.greedy(model, prompt, max_new_tokens=NEW)
    pads = torch.full((3,), 7)
    for ids, mask in (
        (torch.cat([pads, prompt]), [0] * 3 + [1] * 12),
        (torch.cat([prompt, pads])[None], [[1] * 12 + [0] * 3]),
    ):
        padded = {"input_ids": ids, "attention_mask": torch.tensor(mask), "labels": -100 + 0 * ids}
        found = decoding.early_exit(model, padded, max_new_tokens=NEW, threshold=1)
        assert torch.equal(found.ids, plain.ids) and found.prompt == 12
        padded["attention_mask"] = 0 * padded["attention_mask"]
        with pytest.raises(ValueError, match="no padding"):
            decoding.greedy(model, padded, max_new_tokens=1)


def test_bad_input(exited, prompt):
    model = exited("opt tied")
    with pytest.raises(ValueError, match="at least one token number"):
        decoding.greedy(model, prompt[:0], max_new_tokens=1)
    with pytest.raises(ValueError, match="one prompt"):
        decoding.greedy(model, prompt.repeat(2, 1), max_new_tokens=1)
    for wrong in (prompt.tolist(), {"ids": prompt}):
        with pytest.raises(TypeError, match="must be a tensor of token numbers"):
            decoding.greedy(model, wrong, max_new_tokens=1)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        decoding.early_exit(model, prompt, max_new_tokens=0, threshold=0.5)
    with pytest.raises(ValueError, match="another tokenizer"):
        decoding.greedy(model, torch.tensor([V]), max_new_tokens=1)
    with pytest.raises(ValueError, match="has 64 positions"):
        decoding.self_speculative(model, prompt, max_new_tokens=60)
    with pytest.raises(ValueError, match="training mode"):
        decoding.greedy(exited("opt tied").train(), prompt, max_new_tokens=1)
    with pytest.raises(ValueError, match="draft must be at least 1"):
        decoding.self_speculative(model, prompt, max_new_tokens=3, draft=0)


def test_a_written_text_can_be_learnt_from(exited, prompt):
    model = exited("llama")
    for text in (
        decoding.greedy(model, prompt, max_new_tokens=2),
        decoding.early_exit(model, prompt, max_new_tokens=2, threshold=0.5),
        decoding.self_speculative(model, prompt, max_new_tokens=2),
    ):
        model(text.ids[None])[0].sum().backward()
