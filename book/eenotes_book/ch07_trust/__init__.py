"""Chapter 7: thresholds one can trust."""

CHAPTER = "07-thresholds-you-can-trust"
REVISION = 2  # raise it when the meaning of the experiment changes: records and steps are made anew
