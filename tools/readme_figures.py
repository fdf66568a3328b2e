"""The figures of the README, taken out of executed chapters with captions and alt texts.

    python tools/readme_figures.py                  from the chapters executed at tiny
    python tools/readme_figures.py --scale reduced  from those executed at reduced

Run it after `make book`.  It writes `docs/figures/<name>.png`, made small, and what stands between
the two marks in README.md.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import re

import chapters
from PIL import Image

# The name of the file, which cell's figure it is, and what a reader who has not seen the chapter
# should look for.
FIGURES = {
    "class-means": (
        "02-e2cm",
        "cell-08",
        "The deeper the layer, the better the averages of the classes can be told apart.",
    ),
    # of recorded logits, whatever the scale
    "accuracy-and-cost": (
        "02-e2cm",
        "score",
        "What a smaller budget costs in accuracy, with three kinds of exits that need no training.",
    ),
    "sparsity-difference": (
        "03-pruning",
        "cell-19",
        "Pruned together with the backbone, the exits (E) keep more of their weights.",
    ),
}
FOLDER = chapters.ROOT / "docs" / "figures"
README = chapters.ROOT / "README.md"
MARKS = ("<!-- figures: tools/readme_figures.py writes what follows -->", "<!-- figures: end -->")
WIDTH = 1000  # pixels
COLOURS = 256  # fewer shift the shades of a heat map
SHOWN = re.compile(
    r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)".*?<figcaption[^>]*>(.*?)</figcaption>',
    re.S,
)


def figure(notebook: dict, cell_id: str) -> tuple[bytes, str, str]:
    """(PNG, alt text, caption) of the figure that a cell shows, as `style.show` made it.

    Raises:
        ValueError: if there is no such cell, or it shows no figure.
    """
    for cell in notebook["cells"]:
        if cell.get("id") == cell_id:
            for output in cell.get("outputs", []):
                shown = "".join(output.get("data", {}).get("text/html", ""))
                if found := SHOWN.search(shown):
                    return (
                        base64.b64decode(found[1]),
                        html.unescape(found[2]),
                        html.unescape(re.sub("</?strong>", "", found[3])),
                    )
    raise ValueError(f"the chapter shows no figure in a cell {cell_id!r}")


def small(png: bytes) -> bytes:
    """The picture at most `WIDTH` pixels wide, on white, in a palette: a third of the bytes."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(
        "RGB"
    )
    if picture.width > WIDTH:
        picture = picture.resize(
            (WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS
        )
    made = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    return made.getvalue()


def markdown(name: str, alt: str, caption: str) -> str:
    chapter, _, headline = FIGURES[name]
    address = f"{FOLDER.relative_to(chapters.ROOT).as_posix()}/{name}.png"
    caption = html.escape(re.sub(r"([*_\\`])", r"\\\1", caption), quote=False)
    return (
        f"**{headline}**\n\n![{alt}]({address})\n\n<sub>Chapter {int(chapter[:2])}. {caption}</sub>"
    )


def between_the_marks(readme: str, block: str) -> str:
    """The README with ``block`` between its two marks."""
    start, end = MARKS
    before, rest = readme.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n\n{block}\n\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=chapters.SCALES, default="tiny")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    blocks = []
    for name, (chapter, cell_id, _) in FIGURES.items():
        path = chapters.executed(chapter, options.scale)
        if not path.is_file():
            command = f"make book SCALE={options.scale}"
            raise SystemExit(
                f"chapter {chapter} has not been executed at {options.scale}: {command}"
            )
        png, alt, caption = figure(chapters.read_notebook(path), cell_id)
        target = FOLDER / f"{name}.png"
        target.write_bytes(small(png))
        blocks.append(markdown(name, alt, caption))
        print(f"{target.relative_to(chapters.ROOT)}: {target.stat().st_size / 1024:.0f} KiB")
    README.write_text(
        between_the_marks(README.read_text(encoding="utf-8"), "\n\n".join(blocks)), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
