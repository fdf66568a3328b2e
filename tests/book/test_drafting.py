"""Drafting by a pretrained model's exits: the work that is replayed is the work that is done."""

import pytest
import torch

from eenotes.language import decoding, exits, initialisation
from eenotes_book.ch06_language.drafting import Work, foreseen, replay, weights_read

AT, DEPTH, PROMPT, NEW = 2, 4, 5, 20


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


@pytest.mark.parametrize("threshold", [0.0, 1.1])
@pytest.mark.parametrize("draft", [1, 3])
def test_a_replayed_text_takes_the_work_of_the_decoder(draft, threshold, model):
    prompt = torch.arange(PROMPT)
    found = decoding.self_speculative(
        model, prompt, max_new_tokens=NEW, draft=draft, threshold=threshold
    )
    text = found.ids.tolist()
    hidden = exits.hidden_states(model.model, found.ids[None], at=AT).detach()
    seen = foreseen(model, torch.arange(12), [text], hidden, prompt=PROMPT)
    work = replay(*seen[0], draft=draft, threshold=threshold)
    assert (work.tokens, work.drafted, work.accepted) == (NEW, found.drafted, sum(found.early))
    assert work.below * AT + work.verified * (DEPTH - AT) == found.layer_passes
    assert work.drafted == (0 if threshold else work.heads)
    assert 0 < work.accepted < work.drafted or threshold


def test_a_draft_by_hand():
    right = torch.tensor([True, True, False, True, True])
    sure = torch.tensor([0.9, 0.9, 0.9, 0.1, 0.9])
    # drafts 1, 2 and 3, keeps 1 and 2, the model says 3; token 4 is unsure; 5 is the last
    work = replay(right, sure, draft=3, threshold=0.5)
    assert work == Work(tokens=5, drafted=3, accepted=2, below=6, heads=4, verified=3)
    # half of the 100 decoder weights below: 6 * 50 + 4 * 5 + 3 * (50 + 20), of 5 * (100 + 20)
    assert weights_read(work, share=0.5, layers=100, final=20, small=5) == 530 / 600


def test_plain_decoding_reads_everything_once():
    work = replay(torch.ones(7).bool(), torch.ones(7), draft=2, threshold=1.1)
    assert weights_read(work, share=0.3, layers=100, final=20, small=0) == pytest.approx(1)
