"""Chapter 8: open problems."""

CHAPTER = "08-open-problems"
REVISION = 1  # raise it when the meaning of the experiment changes: records and steps are made anew
