"""The chapters, in the order of the book, and the folder that holds the code of each."""

FOLDERS = {
    "01-why-leave-early": "ch01_leaving",
    "02-e2cm": "ch02_e2cm",
    "03-pruning": "ch03_pruning",
    "04-cbt": "ch04_cbt",
    "05-eeprune": "ch05_eeprune",
    "06-class-aware-init": "ch06_language",
    "07-thresholds-you-can-trust": "ch07_trust",
    "08-open-problems": "ch08_open",
}


def folder(chapter: str) -> str:
    """The folder of a chapter inside this package: ``"02-e2cm"`` gives ``"ch02_e2cm"``.

    Raises:
        ValueError: for an unknown chapter.
    """
    if chapter not in FOLDERS:
        raise ValueError(f"there is no chapter {chapter!r}; there are {', '.join(FOLDERS)}")
    return FOLDERS[chapter]
