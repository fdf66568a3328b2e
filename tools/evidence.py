"""What the records say of a claim, put into a page where it gives advice: `book/which-method.md`.

A comment such as `<!-- evidence 02-e2cm: ahead of SDN -->` is replaced by what every run says
of the claims whose statement has these words: this build's, and the records in the package.  So
advice and numbers cannot disagree unnoticed, and no number is copied by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import results

from eenotes_book.claims_table import short

COMMENT = re.compile(r"<!-- evidence ([\w-]+): (.+?) -->")


def fill(template: str, scale: str, chapters: Sequence[results.Chapter]) -> str:
    """The page with every comment replaced.

    Raises:
        ValueError: a chapter that is not in the book, or words that no claim of it has.
    """
    known = {chapter.name: chapter for chapter in chapters}

    def found(match: re.Match) -> str:
        name, words = match.groups()
        if name not in known:
            raise ValueError(f"{match[0]}: there is no such chapter; there are {', '.join(known)}")
        lines = evidence(known[name], scale, words)
        if not lines:
            raise ValueError(f"{match[0]}: no claim of this chapter has these words")
        return "<br>".join(lines)

    return COMMENT.sub(found, template)


def evidence(chapter: results.Chapter, scale: str, words: str) -> list[str]:
    """A line of HTML per run and claim: run, subject, our number with a link, verdict."""
    lines = []
    for name, record in results.runs(scale, chapter).items():
        for claim in matching(record, words):
            subject = claim["statement"].split(words)[0].strip(" :.")
            ours = short(claim["ours"])
            if claim["spread"] is not None:
                ours += f" ± {short(claim['spread'], claim['ours'])}"
            place = results.where(chapter, claim, current=record["current"])
            about = f" {results.text(subject)}:" if subject else ":"
            old = "" if record["current"] else f" {results.OUTDATED}"
            run = f"<b>{results.text(results.run_name(scale, name))}</b>"
            word = results.verdict(claim) if "verdict" in claim else ""
            lines.append(f"{run}{about} {results.link(place, results.text(ours))} {word}{old}")
    return lines


def matching(record: Mapping, words: str) -> list[Mapping]:
    """The claims of a record whose statement has these words."""
    return [claim for claim in record["claims"] if words in claim["statement"]]
