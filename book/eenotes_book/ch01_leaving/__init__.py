"""Chapter 1: why leave early."""

CHAPTER = "01-why-leave-early"
REVISION = 2  # raise it when the meaning of the experiment changes: records and steps are made anew
