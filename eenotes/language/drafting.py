"""A draft model: an early exit as a causal language model of its own, for assisted generation."""

import copy

import torch
from torch import Tensor, nn

from eenotes.language.decoders import close
from eenotes.language.exits import ExitModel, anatomy


def draft_model(model: ExitModel) -> nn.Module:
    """The decoders below the exit, and the exit, as a causal language model of the same class.

    It shares every weight, and goes wherever a model does, as ``generate(assistant_model=...)``.
    Its logits are the exit's, without the final head's scale or cap.  It cannot be saved: save the
    exit.

    Raises:
        TypeError: a model that does not run with fewer decoders, or gives other logits then.
        ValueError: an exit with a norm on a model without a final norm, which has no place for it.
    """
    lm, exit_head = model.model, model.exit_head
    tensors = [*model.parameters(), *model.buffers()]
    shared = {id(tensor): tensor for tensor in tensors}
    small = copy.deepcopy(lm, memo=dict(shared))
    parts, own = anatomy(small), copy.deepcopy(exit_head, memo=dict(shared))
    if parts.final_norm is None and own.norm is not None:
        raise ValueError("an exit with a norm needs a model with a final norm")
    setattr(parts.owner, parts.name, parts.decoders[: model.at])
    _replace(small, parts.head, own.linear)
    _replace(small, parts.final_norm, own.norm or nn.Identity())
    _replace(small, parts.projection, nn.Identity())
    small.config.num_hidden_layers = model.at
    if getattr(small.config, "layer_types", None):
        small.config.layer_types = small.config.layer_types[: model.at]
    if parts.scale != 1:
        _return_output_of(own.linear, small)
    small.save_pretrained = _refuse
    small.eval()
    ids = torch.arange(4, device=own.linear.weight.device)[None]
    with torch.no_grad():
        expected = model.exit_logits(ids)
        try:
            same = close(small(input_ids=ids).logits, expected)
        except Exception as error:
            what = f"{type(lm).__name__} does not run with fewer decoders"
            raise TypeError(f"{what} ({error})") from error
    if not same:
        raise TypeError(f"{type(lm).__name__} with fewer decoders gives other logits than the exit")
    return small


def _replace(model: nn.Module, old: nn.Module | None, new: nn.Module) -> None:
    """Put another module wherever the model keeps the old one."""
    for module in [] if old is None else list(model.modules()):
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)


def _return_output_of(head: nn.Module, model: nn.Module) -> None:
    """The model's logits are the head's output from now on, as it is."""
    seen: list[Tensor] = []
    head.register_forward_hook(lambda _, __, output: seen.append(output))
    model.register_forward_hook(lambda _, __, output: setattr(output, "logits", seen.pop()))


def _refuse(*_, **__) -> None:
    raise TypeError(
        "a draft model cannot be saved, its class would build the whole model again: save the exit "
        "with eenotes.save(exited, path), and after eenotes.load call draft_model again"
    )
