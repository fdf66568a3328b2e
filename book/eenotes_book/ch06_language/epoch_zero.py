"""Epoch 0 on a pretrained model: the accuracy of every head at one exit, before any training.

Every draw of text has its own statistics, choices and report; ``"all"`` are the statistics of all
draws together, chosen and reported on all of their text.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from eenotes.class_statistics import ClassMoments
from eenotes.language.decoders import hidden_of
from eenotes.language.token_statistics import Statistics
from eenotes_book.ch06_language.features import DRAWS, Pretrained, collected
from eenotes_book.ch06_language.race import (
    FACTORS,
    KINDS,
    Head,
    Racer,
    candidates,
    class_mean,
    count_right,
)

_CURVE = (20, 40, 100, 200)  # rows of a draw, besides all of them


def measured(p: Pretrained, *, at: int, norm: bool, train: int, curve: bool) -> dict:
    """One exit: what every draw and all draws together measure.

    The statistics are taken from ``train`` rows of every draw, with a ``curve`` also from fewer.
    Raw features are reported on few rows.
    """
    after = (*(rows for rows in _CURVE if curve and rows < train), train)
    racers, parts = [], []
    for draw in range(DRAWS):
        racers.append({})
        for rows, found in statistics_of(p, draw, at=at, norm=norm, after=after):
            racers[draw][rows] = Racer(found)
        parts.append(found)  # the whole draw's: each is V × D numbers
    whole = Racer(merged(parts))
    del parts, found
    chosen: list[dict] = []
    together: dict[Head, Tensor] = {}
    for draw in range(DRAWS):
        heads = _to_choose_from(racers[draw], whole)
        right = _counted(p, "val", draw, at=at, norm=norm, racers=heads)
        chosen.append({name: _best(right[name]) for name in heads})
        for head, count in right["all"].items():
            together[head] = together.get(head, 0) + count
    for one in chosen:
        one["all"] = _best(together)
    reports = [
        _report(p, draw, racers[draw], whole, chosen[draw], at=at, norm=norm)
        for draw in range(DRAWS)
    ]
    return {"at": at, "norm": norm, "draws": reports, "all": _facts(whole)}


def statistics_of(
    p: Pretrained, draw: int, *, at: int, norm: bool, after: Sequence[int]
) -> Iterator[tuple[int, Statistics]]:
    """The statistics of a draw after some numbers of its rows."""
    sums = ClassMoments(p.anatomy.head.out_features)
    rows = 0
    for features, labels in p.features("train", draw, at=at, norm=norm, rows=max(after)):
        sums.update(features, labels)
        rows += len(labels) // (p.settings.length - 1)
        if rows in after:
            yield rows, as_statistics(sums)


def as_statistics(sums: ClassMoments) -> Statistics:
    moments = sums.compute()
    scatter = float(moments.covariance.trace() * moments.counts.sum())
    return Statistics(moments.means.float(), moments.counts, scatter, moments.covariance)


def statistics_among(features: Tensor, labels: Tensor, words: Tensor) -> Statistics:
    """The statistics of the positions ``(N,)`` whose label is one of the words, ``(M,)`` ascending.

    The classes are the words, not all tokens.
    """
    column = places(labels, words)
    sums = ClassMoments(len(words))
    sums.update(features[column >= 0], column[column >= 0])
    return as_statistics(sums)


def places(labels: Tensor, words: Tensor) -> Tensor:
    """Where each label stands in ascending words, ``(N,)``; -1: it is none of them."""
    found = torch.searchsorted(words, labels).clamp_max(len(words) - 1)
    return torch.where(words[found] == labels, found, -1)


def merged(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of texts together, from those of each."""
    counts = sum(part.counts for part in parts)
    total, filled = counts.sum(), counts.clamp_min(1)[:, None]
    sums = sum(part.counts[:, None] * part.class_means.double() for part in parts)
    means, centre = sums / filled, sums.sum(0) / total

    def between(counts: Tensor, means: Tensor) -> Tensor:
        seen = counts > 0
        scaled = counts[seen].double().sqrt()[:, None] * (means[seen].double() - centre)
        return scaled.T @ scaled

    products = sum(
        part.counts.sum() * part.covariance + between(part.counts, part.class_means)
        for part in parts
    )
    covariance = (products - between(counts, means)) / total
    return Statistics(means.float(), counts, float(covariance.trace() * total), covariance)


def _to_choose_from(racers: dict[int, Racer], whole: Racer) -> dict:
    """Which heads of which statistics: of fewer rows, of the draw (the most rows), of all draws."""
    plain = [class_mean(metric, "plain", factor) for metric in KINDS for factor in FACTORS]
    heads = {name: (racer, plain) for name, racer in _named(racers, whole).items()}
    return heads | {name: (heads[name][0], candidates()) for name in ("draw", "all")}


def _named(racers: dict[int, Racer], whole: Racer) -> dict[str, Racer]:
    """``"20"``, ``"40"``, ..., ``"draw"``, ``"all"``."""
    most = max(racers)
    fewer = {str(rows): racer for rows, racer in racers.items() if rows != most}
    return fewer | {"draw": racers[most], "all": whole}


def _best(scores: dict[Head, Tensor]) -> dict[str, Head]:
    """Of every kind the head with most right answers, the first of equals."""
    found: dict[str, Head] = {}
    for head, count in scores.items():
        name = _name(head)
        if name not in found or count[0] > scores[found[name]][0]:
            found[name] = head
    return found


def _name(head: Head) -> str:
    metric, kind, _, alpha = head
    return "mixture with copy" if alpha < 1 else f"{metric}, {kind}"


def _counted(
    p: Pretrained, split: str, draw: int, *, at: int, norm: bool, racers: dict
) -> dict[str, dict[Head | str, Tensor]]:
    """Right answers among all next tokens of a draw, and among those outside of ``<unk>``."""
    rows = getattr(p.settings, split) if norm else p.settings.few
    features, labels = collected(p.features(split, draw, at=at, norm=norm, rows=rows))
    ordinary = p.ordinary(split, draw)[:rows].flatten()
    groups = torch.stack([torch.ones_like(ordinary), ordinary], 1)
    weight = p.anatomy.head.weight
    found = count_right(features, labels, groups, copied_weight=weight, racers=racers)
    return found | {"positions": groups.sum(0).tolist()}


def _report(
    p: Pretrained,
    draw: int,
    racers: dict[int, Racer],
    whole: Racer,
    chosen: dict[str, dict[str, Head]],
    *,
    at: int,
    norm: bool,
) -> dict:
    """What a draw measures on its test text: pairs of right answers, in all and outside `<unk>`."""
    named = _named(racers, whole)
    heads = {name: (racer, _to_report(name, chosen[name])) for name, racer in named.items()}
    right = _counted(p, "test", draw, at=at, norm=norm, racers=heads)
    found = {"positions": right["positions"], "copy": right["copy"]["copy"].tolist()}
    for name, racer in named.items():
        counts = {head: count.tolist() for head, count in right[name].items()}
        plug_in = {_name(head): counts[head] for head in counts if head[2:] == (1.0, 1.0)}
        best = {
            kind: {"factor": head[2], "alpha": head[3], "right": counts[head]}
            for kind, head in chosen[name].items()
        }
        found[name] = _facts(racer) | {"plug-in": plug_in, "chosen": best}
        if name in ("draw", "all"):
            found[name]["factors"] = {
                metric: [counts[class_mean(metric, "plain", factor)][0] for factor in FACTORS]
                for metric in KINDS
            }
    return found


def _to_report(name: str, chosen: dict[str, Head]) -> list[Head]:
    """The plug-in heads and the chosen ones; of whole draws those of the curve over the factor."""
    heads = list(chosen.values())
    if name in ("draw", "all"):
        heads += [class_mean(metric, kind) for metric, kinds in KINDS.items() for kind in kinds]
        heads += [class_mean(metric, "plain", factor) for metric in KINDS for factor in FACTORS]
    else:
        heads += [class_mean(metric) for metric in KINDS]
    return list(dict.fromkeys(heads))


def _facts(racer: Racer) -> dict:
    return {
        "tokens": racer.tokens,
        "seen": len(racer),
        "n0": racer.metrics["identity"].n0,
        "kappa": {name: metric.kappa for name, metric in racer.metrics.items()},
    }


@torch.inference_mode()
def whole_model(p: Pretrained, *, at: int) -> dict:
    """The final head on few rows of every draw, in float32, and what the precision changes.

    The copied head behind the final norm at one exit is right this often on features in float32 and
    in the precision of the forward pass.
    """
    weight, norm, few = p.anatomy.head.weight, p.anatomy.final_norm, p.settings.few
    draws = []
    for draw in range(DRAWS):
        found = torch.zeros(3, dtype=torch.int64)
        kept, labels = collected(p.features("test", draw, at=at, norm=True, rows=few))
        ids = p.rows("test", draw)[:few]
        seen: list[Tensor] = []
        hook = p.anatomy.decoders[at - 1].register_forward_hook(
            lambda _, __, output, seen=seen: seen.append(hidden_of(output))
        )
        try:
            last = torch.cat(
                [
                    p.model.get_decoder()(input_ids=row[None], use_cache=False).last_hidden_state
                    for row in ids
                ]
            )
        finally:
            hook.remove()
        full = norm(torch.cat(seen))
        for i, x in enumerate((last[:, :-1].flatten(0, 1), full[:, :-1].flatten(0, 1), kept)):
            for part, y in zip(x.split(128), labels.split(128), strict=True):
                found[i] += ((part @ weight.T).argmax(1) == y).sum()
        draws.append(
            {"positions": len(labels)}
            | dict(zip(("final", "copy, float32", "copy"), found.tolist(), strict=True))
        )
    return {"at": at, "draws": draws}
