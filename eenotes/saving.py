"""Saving a whole early exit network as one file of data, and building it again from the file.

The file is in the format of safetensors: the tensors, and as JSON where the backbone was cut, which
exits follow, and the rule.  Nothing in it runs as code, so a class of your own is named when it is
loaded.  The answers to one example are saved, too: a network that gives others is not returned.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from eenotes import rules
from eenotes._checks import as_input
from eenotes.checkpoints import load_tensors, save_tensors
from eenotes.cutting import split
from eenotes.exits import ClassMeanExit, LinearExit
from eenotes.identity import fingerprint
from eenotes.language.decoders import close
from eenotes.language.exits import ExitModel, attach
from eenotes.network import EarlyExitNetwork, detach_computed, in_mode
from eenotes.tracing import kept_random_state, seed_everything, unwrapped
from eenotes.verification import example_for

_FORMAT = 1
_RULES = (
    rules.ClassMeanConfidence, rules.Confidence, rules.Entropy, rules.Patience, rules.PerClass,
)  # fmt: skip


def save(
    net: EarlyExitNetwork | ExitModel,
    path: str | Path,
    *,
    rule: rules.Rule | None = None,
    example: Tensor | None = None,
) -> None:
    """Write a network to one file, for `load`; and its rule, for `load_rule`.

    Of a language model only the exit is written, with a digest of the model's weights.  Masks of
    pruning are kept.  The file is complete under its name, or not there at all.

    Args:
        net: a network, or a language model from `eenotes.language.exits.attach`.
        path: of the file; usually it ends in ``.safetensors``.
        rule: a dataclass whose fields are numbers, tensors, or sequences of them.
        example: an input ``(B, ...)`` whose answers are saved, too; by default one is made from the
            first layer.

    Raises:
        TypeError: something else than a network, such as a draft model, or another rule.
        ValueError: a rule that does not fit the network, no example can be made, or a part of the
            network keeps a state that is no tensor.
    """
    net = unwrapped(net)
    language = isinstance(net, ExitModel)
    if not isinstance(net, EarlyExitNetwork | ExitModel):
        raise TypeError(
            f"a {type(net).__name__} is no early exit network: a backbone or a language model is "
            "saved by its own means, and a draft model is made again from its exit"
        )
    if rule is not None:
        rule.check(2 if language else net.num_exits)
    if example is None:
        example = torch.arange(6)[None] if language else example_for(net)
    state = (net.exit_head if language else net).state_dict()
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(f"only tensors can be saved, and {foreign[0]!r} is none")
    tensors = {f"network.{name}": value for name, value in state.items()}
    tensors |= {f"answer.{j}": value for j, value in enumerate(_answers(net, example))}
    facts = _plan(net) | {"format": _FORMAT, "class": type(net).__name__}
    facts["settings"] = _settings(net)
    facts["rule"] = None if rule is None else _described(rule, tensors)
    save_tensors(Path(path), tensors | {"example": example}, **facts)


def load(path: str | Path, backbone: nn.Module) -> EarlyExitNetwork | ExitModel:
    """Build the network that `save` has written, in evaluation mode, with the same bits.

    Args:
        path: of the file.
        backbone: freshly built, with the architecture of the one that was cut; it is copied and
            stays as it is.  For a network with stages written by hand, with exits of your own, or
            of a class of its own, such as one for segmentation: a fresh whole network.  For the
            exit of a language model: the model, with the weights that it had; it is not copied.

    Raises:
        ValueError: no such file, a damaged one or one of another format; names, shapes, types or
            answers other than those of the network that was saved; other weights of a language
            model.
        TypeError: the backbone is no module.
    """
    tensors, facts = _read(path)
    backbone, example = unwrapped(backbone), tensors["example"]
    state = _under("network", tensors)
    with kept_random_state():
        if facts["class"] == "ExitModel":
            if fingerprint(backbone) != facts["model"]:
                raise ValueError(
                    "the exit was saved with other weights of its model than those of this "
                    f"{type(backbone).__name__}; one that was trained is saved by its own means"
                )
            net = attach(backbone, at=facts["at"], norm=facts["norm"])
            _fill(net.exit_head.to(next(iter(state.values())).dtype), state)
        else:
            detach_computed(backbone, memo := {})
            net = _build(copy.deepcopy(backbone, memo), state, facts, example)
            _fill(net, state)
    found, expected = _answers(net, example), _under("answer", tensors)
    pairs = ((one, expected.get(str(j))) for j, one in enumerate(found))
    if len(found) != len(expected) or not all(close(*pair, least=1e-2) for pair in pairs):
        raise ValueError(
            f"the weights in {path} fit, but the network gives other answers with them than when "
            f"it was saved: {type(backbone).__name__} has another architecture or setting"
        )
    return net.eval()


def load_rule(path: str | Path, *own: type) -> rules.Rule:
    """The rule that `save` has written, its tensors ``(...)`` on the CPU.

    A rule of your own is named: ``load_rule(path, Margin)``.

    Raises:
        ValueError: as `load` for the file; there is no rule in it, or an unknown one.
    """
    tensors, facts = _read(path)
    if facts["rule"] is None:
        raise ValueError(f"{path} was saved without a rule: save(net, path, rule=...)")
    kinds = {kind.__name__: kind for kind in (*_RULES, *own)}
    name, fields = facts["rule"]
    if name not in kinds:
        raise ValueError(f"{path} has a rule {name}: name its class, load_rule(path, {name})")
    return kinds[name](**{key: _value(value, tensors) for key, value in fields.items()})


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    tensors, facts = load_tensors(Path(path))
    if facts.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is no network of format {_FORMAT}, which this version of eenotes writes and "
            f"reads; it says {facts.get('format')}"
        )
    return tensors, facts


def _plan(net: EarlyExitNetwork | ExitModel) -> dict[str, Any]:
    """How to build the network from its backbone; nothing if its parts do not say it."""
    if isinstance(net, ExitModel):
        norm = net.exit_head.norm is not None
        return {"at": net.at, "norm": norm, "model": fingerprint(net.model)}
    # e2cm.combine puts exits of two kinds behind a stage, with nothing in between
    ends = ["" if type(s) is nn.Identity else getattr(s, "ends_at", None) for s in net.stages]
    known = all(type(head) in (LinearExit, ClassMeanExit) for head in net.exits)
    if type(net) is not EarlyExitNetwork or None in ends or ends[-1] != "output" or not known:
        return {}
    options = ("grid", "channels_last")
    return {"stages": ends, "exits": [{o: getattr(h, o, None) for o in options} for h in net.exits]}


def _settings(net: nn.Module) -> dict[str, Any]:
    """The numbers and words that a network of a class of its own keeps beside its parts."""
    kinds = bool | int | float | str
    return {n: v for n, v in vars(net).items() if n != "training" and isinstance(v, kinds)}


def _exit(state: dict[str, Tensor], options: dict[str, Any]) -> nn.Module:
    """An exit like the one with these tensors."""
    if "offsets" in state:
        return ClassMeanExit(torch.zeros(state["offsets"].shape)).to(state["offsets"].dtype)
    weight = state["linear.weight"]
    return LinearExit(*reversed(weight.shape), **options).to(weight.dtype)


def _build(
    backbone: nn.Module, state: dict[str, Tensor], facts: dict, example: Tensor
) -> EarlyExitNetwork:
    """The network around a backbone, or the one that was given whole."""
    if isinstance(backbone, EarlyExitNetwork):
        here = [type(backbone).__name__, _settings(backbone)]
        if here != [facts["class"], facts["settings"]]:
            raise ValueError(
                f"saved was {facts['class']} {facts['settings']}, given is {here[0]} {here[1]}"
            )
        return backbone
    if "stages" not in facts:
        raise ValueError(
            "the network was saved with stages or exits that eenotes does not make: build it anew, "
            f"a {facts['class']} with random weights, and give it instead of the backbone"
        )
    example, at = as_input(example, backbone), [end for end in facts["stages"][:-1] if end]
    pieces = iter(split(backbone, at=at, example=example))
    stages = [next(pieces) if end else nn.Identity() for end in facts["stages"]]
    parts = [_unmasked(_under(f"exits.{j}", state)) for j in range(len(stages) - 1)]
    exits = [_exit(*one).to(example.device) for one in zip(parts, facts["exits"], strict=True)]
    return EarlyExitNetwork(stages, exits)


def _fill(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a network the weights and the masks of the file."""
    plain, expected = _unmasked(state), net.state_dict()
    kinds = [{n: (tuple(t.shape), t.dtype) for n, t in of.items()} for of in (plain, expected)]
    if kinds[0] != kinds[1]:
        name = next(n for n in kinds[0] | kinds[1] if kinds[0].get(n) != kinds[1].get(n))
        saved, here = (kind.get(name, "missing") for kind in kinds)
        raise ValueError(f"the architecture is another one: {name} was {saved}, here it is {here}")
    net.load_state_dict(plain)
    for name in state.keys() - plain.keys():
        path, _, parameter = name.removesuffix("_mask").rpartition(".")
        layer = net.get_submodule(path)
        if name.endswith("_mask") and not hasattr(layer, f"{parameter}_mask"):  # in two stages
            prune.custom_from_mask(layer, parameter, state[name].to(layer.weight.device))


def _unmasked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names that they have without masks, and no masks."""
    masked = {
        name[:-5] for name in state if name.endswith("_orig") and f"{name[:-5]}_mask" in state
    }
    return {
        name.removesuffix("_orig") if name[:-5] in masked else name: value
        for name, value in state.items()
        if not (name.endswith("_mask") and name[:-5] in masked)
    }


@torch.no_grad()
def _answers(net: nn.Module, x: Tensor) -> list[Tensor]:
    """What a network answers to an example ``(B, ...)``, on the CPU."""
    with in_mode(net), kept_random_state():
        seed_everything(0)
        answers = list(net(as_input(x, net)))
    other = [type(answer).__name__ for answer in answers if not isinstance(answer, Tensor)]
    if other:
        raise TypeError(f"a stage or an exit gave a {other[0]}: let it return the logits alone")
    return [answer.cpu() for answer in answers]


def _described(rule: rules.Rule, tensors: dict[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The class of a rule and its fields as JSON; tensors among them go to the others."""

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, list | tuple):
            return [plain(part, f"{name}.{i}") for i, part in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{name} is a {type(value).__name__}: only numbers and tensors are saved")

    if not dataclasses.is_dataclass(rule):
        raise TypeError(
            f"a rule is saved by the fields of a dataclass; {type(rule).__name__} is none"
        )
    fields = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
    return type(rule).__name__, {name: plain(v, f"rule.{name}") for name, v in fields.items()}


def _value(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return tensors[value["tensor"]]
    return tuple(_value(part, tensors) for part in value) if isinstance(value, list) else value


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")
    }
