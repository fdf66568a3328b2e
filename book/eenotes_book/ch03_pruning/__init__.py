"""Chapter 3: pruning early exit networks."""

CHAPTER = "03-pruning"
REVISION = 1  # raise it when the meaning of the experiment changes: records and steps are made anew
