"""Chapter 6: the AWGN channel and exits of language models."""

CHAPTER = "06-class-aware-init"
REVISION = 1  # raise it when the meaning of the experiment changes: records and steps are made anew
