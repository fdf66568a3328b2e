"""What one run on a borrowed GPU gives the book: its numbers beside those of a CPU, and its times.

    python tools/on_gpu.py                      at most ten minutes; writes _build/on_gpu.json
    python tools/on_gpu.py --minutes 30         more of the chapters
    python tools/on_gpu.py --only 2             one chapter
    python tools/on_gpu.py --device cpu         to try it without a GPU

First the times of `predict`, `predict_stream` and decoding; then the chapters, executed at
`reduced`, whose claims are compared with the committed record.  Chapters that no time is left for
are named, and so is whatever else was not possible.  A second run finds what the first has trained.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import chapters

TOLERANCE = 0.03  # of a claim's number: training in another order of rounding, with one seed
SIZES = (1, 64, 256)
LEAST = 60  # seconds without which no chapter is begun


# --- chapters


def compared(made: dict, committed: dict, *, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """The numbers of two records of a chapter: how many agree, and which do not."""
    ours = {claim["statement"]: claim["ours"] for claim in committed["claims"]}
    beyond, count = [], 0
    for claim in made["claims"]:
        there, here = ours.get(claim["statement"]), claim["ours"]
        if not all(isinstance(value, int | float) for value in (there, here)):
            continue
        count += 1
        if abs(here - there) > tolerance * max(1, abs(there)):
            beyond.append({"statement": claim["statement"], "there": there, "here": here})
    return {"there": committed["device"], "compared": count, "beyond": beyond}


def chapter(name: str, scale: str, *, seconds: float) -> dict[str, Any]:
    """Execute a chapter with a limit on every cell, and compare its record."""
    chapters.CELL_TIMEOUT[scale] = max(1, int(seconds))
    start = time.monotonic()
    if not chapters.execute(name, scale):
        return {"failed": reason(chapters.BUILD / "failed" / scale / f"{name}.ipynb")}
    found: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
    here, there = chapters.record_of(name, scale), chapters.RECORDS / scale / f"{name}.json"
    if not there.is_file():
        return found | {"not compared": f"there is no committed record at {scale}"}
    if not here.is_file():
        return found | {"not compared": "the chapter wrote no record"}
    records = (json.loads(path.read_text(encoding="utf-8")) for path in (here, there))
    return found | compared(*records)


def reason(failed: Path) -> str:
    """The error of a chapter that failed, in one line."""
    if failed.is_file():
        for cell in chapters.read_notebook(failed)["cells"]:
            for output in cell.get("outputs", []):
                if output.get("output_type") == "error":
                    return f"{output['ename']}: {output['evalue']}".splitlines()[0][:300]
    return "a cell had not ended when the time was over"


def every_chapter(names: list[str], scale: str, *, until: float) -> dict[str, Any]:
    """The chapters one after the other, while there is time."""
    found = {}
    for name in names:
        left = until - time.monotonic()
        if left < LEAST:
            found[name] = {"not run": "no time was left"}
        else:
            found[name] = chapter(name, scale, seconds=left)
        print(f"{name}: {json.dumps(found[name], ensure_ascii=False)}", flush=True)
    return found


# --- times


def inference(*, depth: int = 56, rounds: int = 5, images: int = 1024) -> dict[str, Any]:
    """Milliseconds per image of a ResNet with exits at half its cost, by the size of the batch."""
    import torch

    from benchmarks import engine
    from eenotes import (
        EarlyExitNetwork,
        collect,
        count_macs,
        linear_exits,
        predict,
        predict_stream,
        split,
    )
    from eenotes_book import scale
    from eenotes_book.models.resnet import CifarResNet
    from eenotes_book.timing import median_seconds

    torch.manual_seed(0)
    device = scale.device()
    backbone, x = CifarResNet(depth).eval().to(device), torch.randn(images, 3, 32, 32).to(device)
    stages = split(backbone, at=backbone.exit_points[:: max(1, depth // 20)])
    net = EarlyExitNetwork(stages, linear_exits(stages, x[:2], num_classes=10)).eval().to(device)
    logits, _ = collect(net, [(part, torch.zeros(len(part))) for part in x.split(256)])
    rule = engine.rule_at_cost(logits.cpu(), count_macs(net, x[:1]), 0.5)
    found = {}
    for size in SIZES:
        batches = x[: min(images, 64 * size)].split(size)
        ways = {
            "backbone": lambda b=batches: [backbone(part) for part in b],
            "predict": lambda b=batches: [predict(net, part, rule) for part in b],
            "predict_stream": lambda b=batches, n=size: predict_stream(net, b, rule, batch_size=n),
        }
        with torch.inference_mode():
            seconds = median_seconds(ways, rounds=rounds, repeats=1)
        count = sum(map(len, batches))
        found[str(size)] = {way: 1000 * s / count for way, s in seconds.items()}
    return found


def decoding(*, width: int = 768, layers: int = 12, new: int = 64, rounds: int = 3) -> dict:
    """Tokens a second of an OPT with random weights and an exit in its middle."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    from eenotes.language import decoding as ways
    from eenotes.language import exits
    from eenotes_book import scale
    from eenotes_book.timing import median_seconds

    torch.manual_seed(0)
    shape = {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 4 * width}
    shape |= {"num_attention_heads": max(1, width // 64), "num_hidden_layers": layers}
    config = OPTConfig(vocab_size=8192, eos_token_id=None, **shape)
    model = exits.attach(OPTForCausalLM(config).to(scale.device()), at=layers // 2).eval()
    prompt, most = torch.arange(5, 37).to(scale.device()), {"max_new_tokens": new}
    statements = {
        "greedy": lambda: ways.greedy(model, prompt, **most),
        "early exit": lambda: ways.early_exit(model, prompt, threshold=0.0, **most),
        "self-speculative": lambda: ways.self_speculative(model, prompt, **most),
    }
    return {name: new / s for name, s in median_seconds(statements, rounds=rounds).items()}


# --- all of it


def about(scale_name: str) -> dict[str, Any]:
    """The device, its memory and what it can compute in."""
    import torch

    from eenotes_book import scale

    found: dict[str, Any] = {"device": scale.device_name(), "torch": torch.__version__}
    found |= {"scale": scale_name, "cannot": []}
    if scale.device().type == "cuda":
        found["memory"] = torch.cuda.get_device_properties(0).total_memory
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            found["cannot"].append("bfloat16: the device emulates it")
    else:
        found["cannot"].append(f"no GPU was used: all numbers are those of {found['device']}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure what there is time for; 1 if a chapter failed or a number is another one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", metavar="N", help="one chapter, by number or name")
    parser.add_argument("--scale", choices=chapters.SCALES, default="reduced")
    parser.add_argument("--device", choices=("any", "cpu"), default="any")
    parser.add_argument("--no-times", action="store_true", help="the chapters alone")
    options = parser.parse_args(argv)
    until = time.monotonic() + 60 * options.minutes
    if options.device == "cpu":  # before PyTorch and accelerate look for one
        os.environ.update(CUDA_VISIBLE_DEVICES="", ACCELERATE_USE_CPU="true")
    # the committed records stay as they are
    os.environ["EENOTES_RESULTS"] = str(chapters.BUILD / "on_gpu")
    found = about(options.scale)
    if not options.no_times:
        found |= {"milliseconds per image": inference(), "tokens a second": decoding()}
    names = chapters.select(options.only)
    found["chapters"] = every_chapter(names, options.scale, until=until)
    for name, told in found["chapters"].items():
        for key in ("failed", "not run", "not compared"):
            if key in told:
                found["cannot"].append(f"{name}: {key}: {told[key]}")
    path = chapters.BUILD / "on_gpu.json"
    chapters.write_json(path, found)
    print(*found["cannot"], f"written: {path}", sep="\n")
    bad = [name for name, told in found["chapters"].items() if "failed" in told]
    bad += [name for name, told in found["chapters"].items() if told.get("beyond")]
    return int(bool(bad))


if __name__ == "__main__":
    sys.path.insert(0, str(chapters.ROOT))  # for benchmarks
    sys.exit(main())
