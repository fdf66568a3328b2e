"""Chapter 5: dataset pruning with an early exit network."""

CHAPTER = "05-eeprune"
REVISION = 2  # raise it when the meaning of the experiment changes: records and steps are made anew
