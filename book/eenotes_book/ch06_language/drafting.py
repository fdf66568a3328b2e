"""Drafting by early exits of a pretrained model: how much of its own text each exit foresees.

The model writes texts greedily.  An exit that drafts has to name the same tokens, so what counts is
its agreement with the model, token by token; the work of a draft of any length follows from that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eenotes import training
from eenotes.files import write_atomically
from eenotes.language import decoding, exits, initialisation
from eenotes_book import cache
from eenotes_book.ch06_language.epoch_zero import statistics_among
from eenotes_book.ch06_language.features import Pretrained
from eenotes_book.ch06_language.settings import DraftingSettings

COPY, MEANS, WHITENED = "copy", "class mean", "whitened class mean"
OWN, LENS = "whitened class mean, model's tokens", "tuned lens"
TRAINED = "trained head"
HEADS = (COPY, MEANS, WHITENED, OWN, LENS, TRAINED)
UNTRAINED = HEADS[:4]  # no gradient step
_POSITIONS = 256  # at once, when logits are computed


class Lens(nn.Module):
    """An affine map in front of a norm; at first it changes nothing (Belrose et al., 2023)."""

    def __init__(self, norm: nn.Module, width: int):
        super().__init__()
        self.norm, self.affine = norm, nn.Linear(width, width)
        nn.init.zeros_(self.affine.weight), nn.init.zeros_(self.affine.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden + self.affine(hidden))


@dataclass
class Drafting:
    """A pretrained model, the features of its exits, and the texts that it writes.

    ``p`` has an exit more, after the last decoder: what the model itself would say.
    """

    p: Pretrained
    s: DraftingSettings

    def prompts(self, split: str) -> Tensor:
        """Beginnings of rows of a split, ``(N, T)``: of validation to choose, of test to report."""
        rows = getattr(self.p.text, split)
        return rows[:: max(len(rows) // self.s.texts, 1)][: self.s.texts, : self.s.prompt]

    def written(self, split: str) -> list[list[int]]:
        """What the whole model makes of each prompt, prompt included."""
        model = self.exited(self.s.exits[0])
        return [
            decoding.greedy(model, prompt, max_new_tokens=self.s.new).ids.tolist()
            for prompt in self.prompts(split)
        ]

    def exited(self, at: int) -> exits.ExitModel:
        """The model with an exit behind a copy of its final norm."""
        return exits.attach(self.p.model, at=at, norm=True).eval()

    def blocks(self, at: int, *, norm: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features ``(N, D)`` at an exit, next tokens ``(N,)``, and those of the model itself."""
        weight = self.p.anatomy.head.weight
        ends = self.p.features("train", 0, at=self.depth, norm=True)
        for (x, y), (last, _) in zip(
            self.p.features("train", 0, at=at, norm=norm), ends, strict=True
        ):
            with torch.no_grad():
                own = [(some @ weight.T).argmax(1) for some in last.split(_POSITIONS)]
            yield x, y, torch.cat(own)

    @property
    def depth(self) -> int:
        """How many decoders the model has."""
        return len(self.p.anatomy.decoders)

    @cached_property
    def vocabulary(self) -> Tensor:
        """The tokens ``(M,)`` that the model itself says on the training text: what is drafted."""
        return self._own.unique()

    @cached_property
    def _own(self) -> Tensor:
        blocks = self.blocks(self.s.exits[0], norm=True)
        return torch.cat([own for _, _, own in blocks])

    def exits(self, at: int) -> dict[str, exits.ExitModel]:
        """The model with each head of `HEADS` at one exit; tokens outside `vocabulary` weigh 0."""
        path = cache.network(f"drafting-{at}", seed=0, s=self.s, model=self.p.settings)
        if not path.exists():
            with write_atomically(path) as partial_file:
                save_file(self._made(at), partial_file)
        kept, found = load_file(path), {}
        for name in HEADS:
            found[name] = model = self.exited(at)
            linear = model.exit_head.linear
            weight, bias = torch.zeros_like(linear.weight), torch.zeros_like(linear.bias)
            weight[self.vocabulary] = kept[f"{name}/weight"]
            bias[self.vocabulary] = kept[f"{name}/bias"]
            exits.load(model, (weight, bias))
        lens = Lens(found[LENS].exit_head.norm, linear.in_features)
        lens.affine.load_state_dict({key: kept[f"lens/{key}"] for key in ("weight", "bias")})
        found[LENS].exit_head.norm = lens.eval().requires_grad_(False)
        return found

    def _made(self, at: int) -> dict[str, Tensor]:
        """Weights ``(M, D)`` and biases ``(M,)`` of all heads, and the lens."""
        words, s = self.vocabulary, self.s
        copied = self.p.anatomy.head.weight.detach()[words]
        x, texts, _ = (torch.cat(parts) for parts in zip(*self.blocks(at, norm=True), strict=True))
        own = torch.searchsorted(words, self._own)
        heads = {COPY: (copied, torch.zeros(len(words)))}
        head = partial(initialisation.class_mean_head, unseen=copied)
        for name, labels in ((WHITENED, texts), (OWN, self._own)):
            found = statistics_among(x, labels, words)
            heads[name] = head(found, n0=s.whitened_factor * found.plug_in_n0(), whiten=True)
            if name == WHITENED:
                heads[MEANS] = head(found, n0=s.factor * found.plug_in_n0(), scale=True)
        linear = nn.Linear(*reversed(copied.shape))
        linear.load_state_dict(dict(zip(("weight", "bias"), heads[OWN], strict=True)))
        _train(linear, x, own, s)
        heads[TRAINED] = (linear.weight.detach(), linear.bias.detach())
        raw = torch.cat([block[0] for block in self.blocks(at, norm=False)])
        lens = Lens(self.exited(at).exit_head.norm.requires_grad_(False), raw.shape[1])
        head = nn.Linear(*reversed(copied.shape), bias=False).requires_grad_(False)
        head.weight = nn.Parameter(copied, requires_grad=False)
        _train(nn.Sequential(lens, head), raw, own, s)
        heads[LENS] = heads[COPY]
        kept = {
            f"{name}/{key}": part.clone()
            for name, parts in heads.items()
            for key, part in zip(("weight", "bias"), parts, strict=True)
        }
        return kept | {f"lens/{key}": part for key, part in lens.affine.state_dict().items()}


def _train(head: nn.Module, features: Tensor, labels: Tensor, s: DraftingSettings) -> None:
    """Some steps of AdamW on the tokens that the model itself says; the rate falls to 0."""
    generator = torch.Generator().manual_seed(0)
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=s.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / s.steps)
    for _ in training.progress_bar(range(s.steps), "drafting head"):
        batch = torch.randint(len(labels), (s.batch,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features[batch]), labels[batch]).backward()
        optimizer.step(), schedule.step()


# ------------------------------------------------------------------------------- what it foresees


@torch.no_grad()
def foreseen(
    model: exits.ExitModel,
    words: Tensor,
    texts: Sequence[Sequence[int]],
    hidden: Sequence[Tensor],
    *,
    prompt: int,
) -> list[tuple[Tensor, Tensor]]:
    """For each text: whether the exit names each new token, and its largest probability.

    Args:
        model: with the exit.
        words: ``(M,)``, the tokens that it may name.
        texts: as the whole model wrote them.
        hidden: ``(T, D)`` of each text, at the exit.
        prompt: how many tokens of each are given.
    """
    head, found = model.exit_head.linear, []
    weight, bias = head.weight[words], head.bias[words]
    for text, states in zip(texts, hidden, strict=True):
        features = model.exit_head.features(states[prompt - 1 : -1])
        best = (features @ weight.T + bias).softmax(1).max(1)
        found.append((words[best.indices] == torch.tensor(text[prompt:]), best.values))
    return found


@dataclass(frozen=True)
class Work:
    """What a text took: counts of passes, of any number of tokens each."""

    tokens: int  #: written
    drafted: int
    accepted: int
    below: int  #: runs of the decoders below the exit
    heads: int  #: runs of the drafting head
    verified: int  #: runs of the decoders above it and of the final head


def replay(right: Tensor, sure: Tensor, *, draft: int, threshold: float) -> Work:
    """The work of `eenotes.language.decoding.self_speculative` on a text that is known.

    After a wrong token the exit is taken to be sure, so that the draft goes on to its full length:
    what it would have said is not known.

    Args:
        right: ``(N,)``, whether the exit names each new token.
        sure: ``(N,)``, its largest probability.
        draft, threshold: as there.
    """
    start, count = 0, len(right)
    drafted = accepted = below = heads = verified = 0
    while start < count:
        length = 0
        for i in range(start, min(start + draft, count - 1)):
            heads += 1
            on_track = bool(right[start:i].all())
            if on_track and sure[i] < threshold:
                break
            length += 1
        good = int(right[start : start + length].long().cumprod(0).sum())
        drafted, accepted = drafted + length, accepted + good
        below, verified = below + length + 1, verified + 1
        start += good + 1
    return Work(count, drafted, accepted, below, heads, verified)


def weights_read(work: Work, *, share: float, layers: int, final: int, small: int) -> float:
    """Weights read, in units of those that plain greedy decoding reads for as many tokens.

    Reading weights takes most of the time where few tokens are computed at once.

    Args:
        work: of the text.
        share: of the decoders, below the exit.
        layers: weights of all decoders.
        final: weights of the final head.
        small: weights of the drafting head.
    """
    read = work.below * share * layers + work.heads * small
    read += work.verified * ((1 - share) * layers + final)
    return read / (work.tokens * (layers + final))


def measured(d: Drafting, texts: dict[str, Sequence], *, at: int) -> dict:
    """Every head at one exit: the draft is chosen on validation texts, and reported on test."""
    words, layers = d.vocabulary, sum(p.numel() for p in d.p.anatomy.decoders.parameters())
    final, small = d.p.anatomy.head.weight.numel(), len(words) * d.p.anatomy.head.in_features
    cost: Callable[[Work], float] = partial(
        weights_read, share=at / d.depth, layers=layers, final=final, small=small
    )
    hidden = {
        split: [
            exits.hidden_states(d.p.model, torch.tensor([text]), at=at)[0].detach()
            for text in texts[split]
        ]
        for split in ("val", "test")
    }
    found = {}
    for name, model in d.exits(at).items():
        val, test = (
            foreseen(model, words, texts[split], hidden[split], prompt=d.s.prompt)
            for split in ("val", "test")
        )
        options = [
            {"draft": draft, "threshold": threshold}
            for draft, threshold in product(d.s.drafts, d.s.thresholds)
        ]
        tried = [
            sum(cost(replay(*text, **option)) for text in val) / len(val) for option in options
        ]
        best = options[tried.index(min(tried))]
        works = [replay(*text, **best) for text in test]
        always = [replay(*text, draft=1, threshold=0.0) for text in test]
        found[name] = {
            "agreement": [right.double().mean().item() for right, _ in test],
            **best,
            "read on validation": min(tried),
            "read": [cost(work) for work in works],
            "read always": [cost(work) for work in always],
            "works": [vars(work) for work in works],
        }
    weights = {"layers": layers, "final": final, "small": small}
    return {"at": at, "depth": d.depth, "words": len(words), "weights": weights, "heads": found}
