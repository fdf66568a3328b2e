"""An early exit of a causal language model: after some decoder, one linear layer over the tokens.

It works on any such model of `transformers`.  Equation numbers are those of chapter 6.
"""

import copy
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eenotes.gaussian import Linear
from eenotes.language.decoders import check_two_parts, close, decoders, hidden_of, run_below
from eenotes.network import in_mode


@dataclass(frozen=True)
class Anatomy:
    """Where a causal language model keeps what an exit needs."""

    decoders: nn.ModuleList
    final_norm: nn.Module | None  #: between the last decoder and the head; none in OPT-350m
    projection: nn.Module | None  #: from the decoders' width to the head's, if they differ
    head: nn.Linear
    scale: float | None  #: of the head's output (Granite); ``None`` if it is capped (Gemma 2)


def anatomy(model: nn.Module) -> Anatomy:
    """Find decoders, final norm, projection and head of a causal language model.

    Norm and projection are what runs between the last decoder and the head, whatever their names:
    the model reads three tokens to find them.

    Raises:
        TypeError: no single list of decoders, no linear head, or something else between the two.
    """
    layers = decoders(model)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(head, nn.Linear):
        raise TypeError(f"{type(model).__name__} has no linear head over its tokens")
    steps, scale = _after_the_decoders(model, layers[-1], head)
    norm = steps.pop(0) if steps and not isinstance(steps[0], nn.Linear) else None
    return Anatomy(layers, norm, steps[0] if steps else None, head, scale)


@torch.no_grad()
def _after_the_decoders(
    model: nn.Module, last: nn.Module, head: nn.Linear
) -> tuple[list[nn.Module], float | None]:
    """A norm and a linear layer, if there are such, before the head; the scale behind it."""
    probe = torch.linspace(-99, 100, head.out_features).to(head.weight)
    steps, hidden, seen = [], [], []

    def note(module, args, output):
        if module is last:
            hidden[:], steps[:] = [hidden_of(output)], []
        elif module is head:
            seen[:] = [args[0]]
            return probe.expand_as(output)  # large numbers, which a cap changes visibly
        elif hidden and not seen and not isinstance(module, nn.Dropout | nn.Identity):
            steps.append(module)
        return None

    leaves = [m for m in model.modules() if m in (last, head) or not any(m.children())]
    with ExitStack() as hooks, in_mode(model):
        for module in leaves:
            hooks.enter_context(module.register_forward_hook(note))
        ids = torch.arange(3, device=head.weight.device)[None]
        logits = model(input_ids=ids, use_cache=False).logits
    kinds = [isinstance(step, nn.Linear) for step in steps]
    fine = bool(hidden and seen) and kinds in ([], [False], [True], [False, True])
    with in_mode(model):
        if not fine or not close(nn.Sequential(*steps)(hidden[0]), seen[0]):
            names = ", ".join(type(step).__name__ for step in steps) or "no module"
            raise TypeError(
                f"{type(model).__name__} does not go from its last decoder to its head by a norm "
                f"and a projection alone; found between them: {names}"
            )
    if logits.shape[-1] != len(probe):
        return steps, None
    scale = (logits[0, 0, -1] / probe[-1]).item()
    return steps, scale if torch.allclose(logits[0, 0], scale * probe, rtol=1e-2) else None


class ExitHead(nn.Module):
    """An exit, ``(..., D)`` → ``(..., V)`` (6.8): optionally a norm, then one linear layer."""

    def __init__(self, width: int, vocabulary: int, *, norm: nn.Module | None = None):
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(width, vocabulary)

    def features(self, hidden: Tensor) -> Tensor:
        """What the linear layer sees, ``(..., D)``."""
        return hidden if self.norm is None else self.norm(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(self.features(hidden))


class ExitModel(nn.Module):
    """A causal language model with one early exit, made by `attach`; the model is no copy.

    ``ids (B, T)`` → logits of the exit and of the final head, both ``(B, T, V)``.
    """

    def __init__(self, model: nn.Module, exit_head: ExitHead, at: int):
        super().__init__()
        self.model, self.exit_head, self.at = model, exit_head.train(model.training), at
        self.training = model.training

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        decoder = decoders(self.model)[self.at - 1]
        with decoder.register_forward_hook(lambda _, __, output: seen.append(output)):
            final = self.model(input_ids=ids, use_cache=False).logits
        return self.exit_head(hidden_of(seen[0])), final

    def exit_logits(self, ids: Tensor) -> Tensor:
        """The exit alone, ``ids (B, T)`` → ``(B, T, V)``: only the first decoders run."""
        return self.exit_head(hidden_states(self.model, ids, at=self.at))

    def features(self, ids: Tensor) -> Tensor:
        """What the exit's linear layer sees, ``(B, T, D)``."""
        return self.exit_head.features(hidden_states(self.model, ids, at=self.at))


def attach(model: nn.Module, *, at: int, norm: bool = False) -> ExitModel:
    """Attach an exit after the first ``at`` decoders, with PyTorch's own random weights.

    ``norm`` puts a copy of the model's final norm before the linear layer.

    Raises:
        TypeError: see `anatomy` and `eenotes.language.decoders.check_two_parts`.
        ValueError: an exit out of range, or ``norm`` on a model without a final norm.
    """
    last = len(decoders(model)) - 1
    if isinstance(at, bool) or not isinstance(at, int) or not 1 <= at <= last:
        raise ValueError(f"an early exit here comes after decoder 1..{last}, not at={at!r}")
    check_two_parts(model, at)
    parts = anatomy(model)
    if norm and parts.final_norm is None:
        raise ValueError("this model has no final norm to copy: attach with norm=False")
    own_norm = copy.deepcopy(parts.final_norm) if norm else None
    exit_head = ExitHead(model.config.hidden_size, parts.head.out_features, norm=own_norm)
    weight = parts.head.weight
    return ExitModel(model, exit_head.to(weight.device, weight.dtype), at)


def hidden_states(model: nn.Module, ids: Tensor, *, at: int) -> Tensor:
    """The raw output of decoder number ``at`` (from 1): ``ids (B, T)`` → ``(B, T, D)``.

    Raises:
        ValueError: ``at`` out of range.
    """
    depth = len(decoders(model))
    if not 1 <= at <= depth:
        raise ValueError(f"the model has {depth} decoders; at={at} must lie in 1..{depth}")
    return hidden_of(run_below(model, ids, at=at))


@torch.no_grad()
def load(model: ExitModel, head: Linear) -> ExitModel:
    """Write weight and bias into the exit, in place; the model is returned.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    linear = model.exit_head.linear
    if head[0].shape != linear.weight.shape or head[1].shape != linear.bias.shape:
        raise ValueError(f"the exit's weight is {linear.weight.shape}, the head's {head[0].shape}")
    if not all(tensor.isfinite().all() for tensor in head):
        raise ValueError("the head given holds NaN or infinite values")
    linear.weight.copy_(head[0])
    linear.bias.copy_(head[1])
    return model
