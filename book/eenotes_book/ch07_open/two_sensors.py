"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.costs import Costs, count_macs
from eenotes.methods import cbt_budgets
from eenotes_book import cache
from eenotes_book.ch07_open.networks import device_of
from eenotes_book.data import drawn_scenes, scenes
from eenotes_book.models import segmentation_training
from eenotes_book.models.segmentation import SegmentationNetwork

CLASSES = drawn_scenes.CLASSES


PLANS = {
    "image": [("image", 0), ("image", 1), ("image", 2)],
    "depth": [("depth", 0), ("depth", 1), ("depth", 2)],
    "depth first": [
        ("depth", 0),
        ("image", 0),
        ("depth", 1),
        ("image", 1),
        ("depth", 2),
        ("image", 2),
    ],
    "image first": [
        ("image", 0),
        ("depth", 0),
        ("image", 1),
        ("depth", 1),
        ("image", 2),
        ("depth", 2),
    ],
}


Step = tuple[str, int]  # a modality and its exit, from 0


class _MeasuredScene(drawn_scenes.DrawnScene):
    """A drawn scene that also notes how near everything is, as a stereo camera would: 0 at the
    horizon, 1 at the camera's feet.

    On a flat road inverse distance grows linearly from the horizon downwards; what stands upright
    is as near as its feet.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        super().__init__(rng, size)
        self.nearness = np.zeros(size)

    def on_painted(self, name: str, where: np.ndarray) -> None:
        if where.any() and name != "sky":
            row = self.y[where] if name == "road" else self.y[where].max() + 1
            self.nearness[where] = np.clip(
                (row - self.horizon + 2) / (self.H - self.horizon + 2), 0.02, 1
            )


def draw_measured(
    count: int, *, seed: int, noise: float = 0.03, size: tuple[int, int] = drawn_scenes.SIZE
) -> tuple[Tensor, ...]:
    """The street scenes of `eenotes_book.data.drawn_scenes.draw`, pixel for pixel, each with a depth map.

    Args:
        count: scenes.
        seed: as there.
        noise: standard deviation of the depth map's own noise.
        size: (H, W).

    Returns:
        Images ``(count, 3, H, W)`` uint8, inverse depth ``(count, H, W)`` float32 (0 infinitely
        far, 1 nearest), labels ``(count, H, W)``.

    Raises:
        ValueError: no scene, or a negative noise.
    """
    if count < 1 or noise < 0:
        raise ValueError(
            f"need at least one scene and a noise of at least 0, got {count} and {noise}"
        )
    images, depths, labels = [], [], []
    for i in range(count):
        scene = _MeasuredScene(np.random.default_rng([seed, i]), size)
        image, label = scene.draw()
        images.append(image)
        labels.append(label)
        depths.append(
            scene.nearness + noise * np.random.default_rng([seed, i, 1]).normal(size=size)
        )
    images, depths, labels = (
        torch.from_numpy(np.stack(parts)) for parts in (images, depths, labels)
    )
    return images.permute(0, 3, 1, 2).contiguous(), depths.float(), labels


@dataclass
class Senses:
    """Drawn streets in two modalities, and a segmentation network with three exits for each of
    them.
    """

    data: dict[str, dict[str, TensorDataset]]  # modality → split → (picture, labels)
    nets: dict[str, SegmentationNetwork]
    s: SimpleNamespace
    seed: int

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(part) for split, part in self.data["image"].items()}

    @cached_property
    def costs(self) -> dict[str, Costs]:
        """Of one picture, per modality."""
        return {
            m: count_macs(net, self.data[m]["test"].tensors[0][:1].to(device_of(net)))
            for m, net in self.nets.items()
        }

    def seen(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        """Modality → log-probabilities of all exits at all places that have a class, ``(J, N, K)``;
        and the classes, ``(N,)``.
        """
        kept = self.__dict__.setdefault("_kept", {})
        if split not in kept:
            kept[split] = self._look(split)
        return kept[split]

    @torch.inference_mode()
    def _look(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        found = {}
        for m, net in self.nets.items():
            logits = [
                torch.stack(net(x.to(device_of(net)))).float().log_softmax(2)
                for x, _ in scenes.batches(self.data[m][split])
            ]
            labels = (
                scenes.at_places(self.data[m][split].tensors[1], logits[0].shape[3:])
                .flatten()
                .long()
            )
            found[m] = torch.cat(logits, 1).movedim(2, -1).flatten(1, 3)[:, labels != scenes.IGNORE]
        return found, labels[labels != scenes.IGNORE].to(device_of(net))


def senses(s: SimpleNamespace, *, seed: int = 0) -> Senses:
    """Draw the streets and train one network per modality, or take it from the cache."""
    counts = {"train": s.train, "val": s.val, "test": s.test}
    data: dict[str, dict[str, TensorDataset]] = {"image": {}, "depth": {}}
    for i, (split, count) in enumerate(counts.items()):
        images, depths, labels = draw_measured(count, seed=1000 * seed + i, noise=s.noise)
        if split == "train":
            pixels = images.float() / 255
            scale = (
                pixels.mean((0, 2, 3))[:, None, None],
                pixels.std((0, 2, 3))[:, None, None],
                depths.mean(),
                depths.std(),
            )
        depths = ((depths - scale[2]) / scale[3])[:, None].expand(-1, 3, -1, -1)
        x = {"image": (images.float() / 255 - scale[0]) / scale[1], "depth": depths}
        for m in data:
            data[m][split] = TensorDataset(x[m].contiguous(), labels)
    nets, weights = (
        {},
        segmentation_training.class_weights(
            [data["image"]["train"].tensors[1]], num_classes=len(CLASSES)
        ),
    )
    for m in data:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nets[m] = SegmentationNetwork(
                len(CLASSES), channels=getattr(s.channels, m), blocks=s.blocks
            )
        training.fit(
            nets[m],
            data[m]["train"],
            loss=partial(segmentation_training.exits_loss, weights=weights),
            epochs=s.epochs,
            batch_size=s.batch_size,
            optimizer=partial(training.adamw, lr=s.learning_rate),
            seed=seed,
            checkpoint=cache.network(f"streets-{m}", seed=seed, counts=counts, recipe=s),
            title=f"streets: {m}",
        )
    return Senses(data, nets, s, seed)


def asked(v: Senses, plan: Sequence[Step], split: str) -> tuple[Tensor, Tensor, Costs]:
    """A cascade over several modalities as one list of exits: logits ``(S, N, K)`` after each step,
    classes ``(N,)``, costs.

    After a step everything that is known is used: the log-probabilities of the latest exit of each
    modality asked so far are added, as if the modalities erred independently (7.6).

    Raises:
        ValueError: no step, a modality or an exit that does not exist, or a modality's exits out of
            order.
    """
    known, labels = v.seen(split)
    latest: dict[str, Tensor] = {}
    logits, stages, exits = [], [], []
    for m, j in plan:
        position = sum(other == m for other, _ in plan[: len(logits)])
        if m not in known or j != position or j >= len(known[m]):
            raise ValueError(
                f"step {(m, j)}: a plan names the exits of {', '.join(known)} from 0 on, each modality's in order"
            )
        latest[m] = known[m][j]
        logits.append(torch.stack(list(latest.values())).sum(0))
        stages.append(v.costs[m].stages[j])
        exits.append(v.costs[m].exits[j] if j < len(v.costs[m].exits) else 0)
    if not logits:
        raise ValueError("the plan has no step: nobody would be asked")
    return torch.stack(logits), labels, Costs(tuple(stages), tuple(exits[:-1]))


def class_table(v: Senses, split: str = "test") -> pd.DataFrame:
    """IoU of every class (rows) at every exit of each modality alone, and of both last exits
    together (columns).
    """
    known, labels = v.seen(split)
    columns = {f"{m} {j + 1}": z for m, logits in known.items() for j, z in enumerate(logits)}
    columns["both"] = known["image"][-1] + known["depth"][-1]
    return pd.DataFrame(
        {name: _iou(z.argmax(1), labels) for name, z in columns.items()}, index=CLASSES
    )


def sufficient(
    table: pd.DataFrame, cost: pd.Series, *, within: float = 0.02, least: float = 0.1
) -> pd.Series:
    """Per class the cheapest source whose IoU is at most ``within`` below that of both last exits
    together.

    Args:
        table: IoU, one row per class, one column per source, one of them called ``both``.
        cost: of each column.
        within: of IoU.
        least: a class that no source finds with at least this IoU has no sufficient source:
            ``"none"``.
    """
    good = table.ge(table["both"] - within, axis=0) & (table >= least)
    return good.apply(lambda row: cost[row.index[row]].idxmin() if row.any() else "none", axis=1)


def source_costs(v: Senses) -> pd.Series:
    """Relative cost of each column of `class_table`; 1 is the whole image network without exits."""
    unit = v.costs["image"].backbone
    cost = {
        f"{m} {j + 1}": w / unit
        for m, c in v.costs.items()
        for j, w in enumerate(c.cumulative.tolist())
    }
    return pd.Series(cost | {"both": cost["image 3"] + cost["depth 3"]})


def modality_table(
    v: Senses, budgets: Sequence[float], plans: Sequence[str] = tuple(PLANS)
) -> pd.DataFrame:
    """Thresholds chosen on validation for every plan and budget; ``plan``, ``thresholds``,
    ``budget``, and on test ``cost``, ``miou``.

    Thresholds: one per step for all classes, or one per step and class, both at equal marginal loss
    (chapter 4).  Costs are relative to the whole image network; places that have left are not
    computed, and nothing is filled in for them (their neighbours see them).
    """
    rows, unit = [], v.costs["image"].backbone
    for name in plans:
        found = cbt_budgets.validation(*asked(v, PLANS[name], "val"))
        test = cbt_budgets.validation(*asked(v, PLANS[name], "test"))
        scale = found.costs.backbone / unit
        for budget in budgets:
            for kind, per_class in (("per step", False), ("per step and class", True)):
                try:
                    chosen = cbt_budgets.priced_for_budget(
                        found, budget=budget / scale, per_class=per_class
                    )
                except ValueError:  # even the first step costs more
                    continue
                done = cbt_budgets.choice(test, chosen.thresholds)
                rows.append(
                    {
                        "plan": name,
                        "thresholds": kind,
                        "budget": budget,
                        "cost": done.relative_cost * scale,
                        "miou": done.score,
                    }
                )
    return pd.DataFrame(rows)


def leaving_table(v: Senses, plan: str, budget: float) -> pd.DataFrame:
    """Of the places of each class (rows) the share that leaves at each step (columns), with
    thresholds per step and class.
    """
    found, unit = cbt_budgets.validation(*asked(v, PLANS[plan], "val")), v.costs["image"].backbone
    chosen = cbt_budgets.priced_for_budget(found, budget=budget * unit / found.costs.backbone)
    test = cbt_budgets.validation(*asked(v, PLANS[plan], "test"))
    at = cbt_budgets.exit_index(test, chosen.thresholds)
    names = [f"{m} {j + 1}" for m, j in PLANS[plan]]
    rows = [
        torch.bincount(at[test.labels == k], minlength=len(names)) / (test.labels == k).sum()
        for k in range(test.num_classes)
    ]
    return pd.DataFrame(torch.stack(rows).tolist(), index=CLASSES, columns=names)


def _iou(prediction: Tensor, labels: Tensor) -> list[float]:
    pairs = (
        torch.bincount(labels * len(CLASSES) + prediction, minlength=len(CLASSES) ** 2)
        .view(len(CLASSES), -1)
        .double()
    )
    hit = pairs.diag()
    return (hit / (pairs.sum(0) + pairs.sum(1) - hit).clamp_min(1)).tolist()
