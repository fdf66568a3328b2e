"""What `benchmarks.serving` measures, as tables for the page *Ship it*, and judged by its goal."""

import re
from collections.abc import Mapping
from typing import Any

GOAL = 1.0  # onnxruntime's time for the cascade over that of predict, batches of 64
PREDICT, SERVED = "PyTorch, `predict`", "onnxruntime, `Served`"


def tables(results: Mapping[str, Any]) -> str:
    """What was measured, as Markdown."""
    if not results["networks"]:
        return "*Not measured yet by this version: `make serving`.*"
    timed = all("milliseconds" in found for found in results["networks"].values())
    times = _seconds(results) if timed else "*Seconds are not measured yet: `make serving`.*"
    return f"{_answers(results)}\n\n{times}"


def _answers(results: Mapping[str, Any]) -> str:
    lines = [
        "| network | | last exit | with exits | disagree | cost | threshold | kB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results["networks"].items():
        for how, a in found["answers"].items():
            kilobytes = found["bytes"][how.split(",")[0]] / 1000
            shares = " | ".join(f"{a[k]:.2%}" for k in ("last exit", "accuracy", "disagreement"))
            cost = f"{a['cost']:.3f} | {a['threshold']:.4f} | {kilobytes:.0f}"
            lines.append(f"| {name} | {how} | {shares} | {cost} |")
    lines += [""] + [
        f"{name} as one graph for everything: {found['bytes']['whole.onnx'] / 1000:.0f} kB; as "
        f"`eenotes.save` writes it: {found['bytes']['net.safetensors'] / 1000:.0f} kB. Other "
        f"predictions than those of `predict`: {found['other answers']['a graph per stage']} with "
        f"a graph per stage, {found['other answers']['one graph']} with one graph."
        for name, found in results["networks"].items()
    ]
    return "\n".join(lines)


def _seconds(results: Mapping[str, Any]) -> str:
    networks = results["networks"]
    columns = [(name, batch) for name in networks for batch in networks[name]["milliseconds"]]
    head = " | ".join(f"{name}, batch {batch}" for name, batch in columns)
    lines = [f"| milliseconds per image | {head} |", "|---" * (len(columns) + 1) + "|"]
    for way in networks[columns[0][0]]["milliseconds"][columns[0][1]]:
        cells = []
        for name, batch in columns:
            found = networks[name]["milliseconds"][batch]
            cells.append(f"{found[way]:.3g} ({found[way] / found[PREDICT]:.2f})")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    lines += ["", "In brackets: divided by the time of `predict`."]
    return "\n".join(lines)


def into_page(page: str, results: Mapping[str, Any]) -> str:
    """The page with the tables of these results."""
    filled, count = re.subn(
        r"(<!-- measured -->\n).*?(\n<!-- end -->)",
        lambda match: match[1] + tables(results) + match[2],
        page,
        flags=re.S,
    )
    if count != 1:
        raise ValueError(f"the page has {count} places for the tables instead of one")
    return filled


def judged(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, found in results["networks"].items():
        if "milliseconds" in found:
            at_64 = found["milliseconds"]["64"]
            ratio = at_64[SERVED] / at_64[PREDICT]
            verdict = "met" if ratio <= GOAL else "MISSED"
            what = "onnxruntime over predict, batches of 64"
            lines.append(f"{name}: {what} {ratio:.2f}   goal ≤ {GOAL}   {verdict}")
    return lines
