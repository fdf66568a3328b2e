"""Chapter 2: exits that are class means."""

CHAPTER = "02-e2cm"
REVISION = 1  # raise it when the meaning of the experiment changes: records and steps are made anew
