"""A clock of drafting: seconds with and without it, and which part of the work takes how many.

The seconds are of use only from a machine that does nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from time import perf_counter

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import HTML
from torch import Tensor

from eenotes.language import decoding, exits
from eenotes_book import records, style
from eenotes_book.ch06_language.drafting import COPY, LENS, OWN, TRAINED, Drafting
from eenotes_book.statistics import interval, mean
from eenotes_book.style import BLUE, GREEN, GREY, ORANGE, RED

PLAIN, THEIRS = "plain decoding", "assistant_early_exit"  # the latter is transformers' own
HEADS = (COPY, OWN, LENS, TRAINED)
BELOW, ABOVE = "decoders below the exit", "decoders above it"
DRAFT, FINAL, REST = "drafting head", "final head", "everything else"
PARTS = (BELOW, DRAFT, ABOVE, FINAL, REST)
_COLORS = (BLUE, RED, GREEN, ORANGE, GREY)  # of the parts
_MARGIN = 0.02  # of the relative speed: a smaller difference is none
_WARM = 4  # tokens that every way writes unmeasured

Way = Callable[[exits.ExitModel, Tensor, int], Tensor]  # a prompt (T,), new tokens → the text


class Timeline:
    """Seconds by part: what runs now is one part, until another one begins."""

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = REST, perf_counter()

    def begin(self, part: str) -> None:
        """From now on it is this part."""
        now = perf_counter()
        self.seconds[self._part] += now - self._since
        self._part, self._since = part, now


@contextmanager
def timeline(model: exits.ExitModel) -> Iterator[Timeline]:
    """The parts of all that the model does within; its modules' hooks begin and end them.

    The drafting head is whatever follows its norm until the model runs again: logits, choice, loop.
    """
    line, parts = Timeline(), exits.anatomy(model.model)
    where = {decoder: BELOW if i < model.at else ABOVE for i, decoder in enumerate(parts.decoders)}
    with ExitStack() as hooks:
        for module, part in (where | {parts.head: FINAL}).items():
            hooks.enter_context(
                module.register_forward_pre_hook(lambda *_, part=part: line.begin(part))
            )
            hooks.enter_context(module.register_forward_hook(lambda *_: line.begin(REST)))
        hooks.enter_context(model.model.register_forward_pre_hook(lambda *_: line.begin(REST)))
        hooks.enter_context(
            model.exit_head.norm.register_forward_pre_hook(lambda *_: line.begin(DRAFT))
        )
        yield line
        line.begin(REST)


def measured(
    d: Drafting, texts: Sequence[Sequence[int]], drafts: Mapping[str, Mapping], *, at: int
) -> dict:
    """Every way to write the test texts, text after text in turns.

    Args:
        d: the model and its exits.
        texts: what the whole model has written, prompts included.
        drafts: head → ``draft`` and ``threshold`` that validation texts have chosen.
        at: decoders before the exit.

    Returns:
        For each way: ``seconds`` of every text, those of all texts by part, and how many texts are
        the whole model's.
    """
    models = d.exits(at)
    ways: dict[str, tuple[exits.ExitModel, Way]] = {PLAIN: (models[COPY], plain)}
    for head in HEADS:
        draft, threshold = (drafts[head][key] for key in ("draft", "threshold"))
        ways[head] = (
            models[head],
            partial(drafted, draft=draft, threshold=threshold, vocabulary=d.vocabulary),
        )
    ways[THEIRS] = (models[COPY], theirs)
    found = clocked(ways, [torch.tensor(text) for text in texts], prompt=d.s.prompt)
    return {"at": at, "threads": torch.get_num_threads(), "new": d.s.new, "ways": found}


def clocked(
    ways: Mapping[str, tuple[exits.ExitModel, Way]], texts: Sequence[Tensor], *, prompt: int
) -> dict[str, dict]:
    """What `measured` gives for each way."""
    found = {name: {"seconds": [], "parts": dict.fromkeys(PARTS, 0.0), "same": 0} for name in ways}
    for model, way in ways.values():
        way(model, texts[0][:prompt], _WARM)
    for text in texts:
        for name, (model, way) in ways.items():
            with timeline(model) as line:
                written = way(model, text[:prompt], len(text) - prompt)
            one, seconds = found[name], sum(line.seconds.values())
            one["seconds"].append(seconds)
            one["same"] += int(torch.equal(written, text))
            one["parts"] = {part: one["parts"][part] + line.seconds[part] for part in PARTS}
    return found


def plain(model: exits.ExitModel, prompt: Tensor, new: int) -> Tensor:
    """The text of plain greedy decoding."""
    return decoding.greedy(model, prompt, max_new_tokens=new).ids


def drafted(model: exits.ExitModel, prompt: Tensor, new: int, **options) -> Tensor:
    """The text that the exit drafts and the whole model verifies."""
    return decoding.self_speculative(model, prompt, max_new_tokens=new, **options).ids


def theirs(model: exits.ExitModel, prompt: Tensor, new: int) -> Tensor:
    """The text of transformers' own drafting by the first decoders, with its own settings."""
    return model.model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        assistant_early_exit=model.at,
        min_new_tokens=new,
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )[0]


# ------------------------------------------------------------------------------- the record


def table(found: Sequence[Mapping]) -> pd.DataFrame:
    """One row per exit and way to write.

    Args:
        found: the record's ``numbers["clock"]``, what `measured` gave for each exit.

    Returns:
        ``at``, ``way``; ``speed``, tokens per second relative to plain decoding of the same text
        (mean, ``low`` and ``high`` of the 95 % interval over texts); ``same``: texts that are the
        whole model's; and per new token the milliseconds of each of `PARTS`.
    """
    rows = []
    for one in found:
        plainly = one["ways"][PLAIN]["seconds"]
        for way, clock in one["ways"].items():
            ratios = [a / b for a, b in zip(plainly, clock["seconds"], strict=True)]
            low, high = interval(ratios)
            tokens = one["new"] * len(ratios)
            parts = {part: 1000 * clock["parts"][part] / tokens for part in PARTS}
            speed = {"speed": mean(ratios), "low": low, "high": high, "same": clock["same"]}
            rows.append({"at": one["at"], "way": way} | speed | parts)
    return pd.DataFrame(rows)


def claim(record: records.Record, found: Sequence[Mapping]) -> None:
    """Whether drafting is faster than plain decoding; one value per test text."""
    for one in found:
        plainly = one["ways"][PLAIN]["seconds"]
        for words, way in (("with no gradient step", OWN), ("with a trained lens", LENS)):
            ratios = [a / b for a, b in zip(plainly, one["ways"][way]["seconds"], strict=True)]
            record.claim(
                f"SmolLM2-135M, drafting after decoder {one['at']} of 30 {words} is faster than "
                f"plain decoding, {one['threads']} threads; ours: tokens per second, relative",
                thesis="not stated",
                values=ratios,
                differences=[ratio - 1 for ratio in ratios],
                margin=_MARGIN,
                over="texts",
                where="drafting",
            )


def figure(found: Sequence[Mapping], *, provenance: str) -> HTML:
    """Milliseconds per token by part, a bar per way, a panel per exit.

    Args:
        found: the record's.
        provenance: data, counts, device.
    """
    if not found:
        return HTML("<p>The clock of drafting has not run yet: <code>make study N=6</code>.</p>")
    rows = table(found)
    fastest = rows.speed[~rows["way"].isin((PLAIN, THEIRS))].max()
    drawing, axes = plt.subplots(
        len(found), 1, figsize=(7.6, 1.4 + 2.1 * len(found)), sharex=True, squeeze=False
    )
    for ax, one in zip(axes[:, 0], found, strict=True):
        part_of = rows[(rows["at"] == one["at"]) & (rows["way"] != THEIRS)].iloc[::-1]
        names, start = [way.replace(", ", ",\n") for way in part_of["way"]], 0.0
        for color, part in zip(_COLORS, PARTS, strict=True):
            ax.barh(names, part_of[part], left=start, color=color, label=part)
            start = start + part_of[part].to_numpy()
        for place, (end, speed) in enumerate(zip(start, part_of["speed"], strict=True)):
            ax.annotate(f"{speed:.2f} ×", (end, place), xytext=(4, 0), va="center", fontsize=9,
                        textcoords="offset points")  # fmt: skip
        ax.set_title(f"exit after decoder {one['at']}", fontsize=10)
        ax.margins(x=0.12)
    axes[-1, 0].set(xlabel="milliseconds per new token")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=3)
    return style.show(
        drawing,
        caption=f"The fastest way of drafting has {fastest:.2f} times the speed of plain decoding. "
        "A new token's time by part, and each way's speed. Drafts are those that validation texts "
        "chose by the weights read.",
        alt="Stacked bars for plain decoding and four drafting heads, one panel per exit; each bar "
        "is divided into decoders below the exit, drafting head, decoders above, final head, rest.",
        provenance=provenance,
    )
