"""Features of a pretrained language model at several exits: one forward pass, kept on disk.

Five stretches of each split of WikiText-2, from five places of the file, are five draws of text:
each has its own tokens for the statistics, for the choices, and for the report.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eenotes.files import write_atomically
from eenotes.language import decoders, exits
from eenotes_book import cache
from eenotes_book.ch06_language.settings import PretrainedSettings
from eenotes_book.data import pretrained_language, text

DRAWS = 5
ROWS = 20  # per file


@dataclass
class Pretrained:
    """A pretrained model, its text in rows, and the features that its exits see."""

    settings: PretrainedSettings
    model: nn.Module
    text: text.Text

    @cached_property
    def anatomy(self) -> exits.Anatomy:
        """Final norm and head."""
        return exits.anatomy(self.model)

    def rows(self, split: str, draw: int) -> Tensor:
        """The rows of a draw, ``(N, T)``: a stretch of the split."""
        every, wanted = getattr(self.text, split), getattr(self.settings, split)
        start = draw * (len(every) // DRAWS)
        return every[start : start + wanted]

    def features(
        self, split: str, draw: int, *, at: int, norm: bool, rows: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Features ``(N, D)`` at an exit and next tokens ``(N,)``, in blocks; float32.

        ``rows`` are at most so many rows of the draw.
        """
        for start in range(0, rows or getattr(self.settings, split), ROWS):
            ids = self.rows(split, draw)[start : start + ROWS]
            ids = ids[: rows - start] if rows else ids
            hidden = load_file(self.file(split, draw, start))[str(at)][: len(ids)].float()
            with torch.no_grad():
                hidden = self.anatomy.final_norm(hidden) if norm else hidden
            yield hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten()

    def ordinary(self, split: str, draw: int) -> Tensor:
        """Which next tokens of a draw are no piece of ``<unk>``, ``(rows, T - 1)``.

        The file has lost its rare words: what stands for them is easy to complete.
        """
        ids = self.rows(split, draw)
        middle = ids == self.text.encode("<unk>")[1]
        piece = middle.clone()
        piece[:, 1:] |= middle[:, :-1]
        piece[:, :-1] |= middle[:, 1:]
        return ~piece[:, 1:]

    def file(self, split: str, draw: int, start: int) -> Path:
        """The file with the features of some rows; they are computed if it is not there."""
        s = self.settings
        name = f"{s.model}-{split}-{draw}-{start:04d}"
        facts = {"length": s.length, "exits": sorted(s.exits), "text": self.text.digest}
        path = cache.network(name, seed=0, precision=s.precision, **facts)
        if not path.exists():
            hidden = self._run(self.rows(split, draw)[start : start + ROWS])
            with write_atomically(path) as partial_file:
                save_file(hidden, partial_file)
        return path

    @torch.inference_mode()
    def _run(self, ids: Tensor) -> dict[str, Tensor]:
        """What every exit sees, ``(N, T, D)`` each; the decoders after the last one do not run."""
        runner, at = self.runner, self.settings.exits
        seen: dict[str, list[Tensor]] = {str(exit_): [] for exit_ in at}
        hooks = [
            decoders.decoders(runner)[exit_ - 1].register_forward_hook(
                lambda _, __, output, found=seen[str(exit_)]: found.append(
                    decoders.hidden_of(output)
                )
            )
            for exit_ in at
        ]
        try:
            for some in ids.split(4):
                decoders.run_below(runner, some, at=max(at))
        finally:
            for hook in hooks:
                hook.remove()
        return {name: torch.cat(parts).contiguous() for name, parts in seen.items()}

    @cached_property
    def runner(self) -> nn.Module:
        """The model in the precision of the forward pass."""
        return copy.deepcopy(self.model).to(getattr(torch, self.settings.precision))


def load(s: PretrainedSettings) -> Pretrained:
    """The model and the text that the settings name."""
    model, tokenizer = pretrained_language.load(s.model, context=s.length)
    return Pretrained(s, model, text.load("WikiText-2", length=s.length, tokenizer=tokenizer))


def collected(blocks: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Blocks of features and labels as one."""
    features, labels = zip(*blocks, strict=True)
    return torch.cat(features), torch.cat(labels)
