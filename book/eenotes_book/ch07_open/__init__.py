"""Chapter 7: open problems."""

CHAPTER = "07-open-problems"
REVISION = 1  # raise it when the meaning of the experiment changes: records and steps are made anew
