"""Chapter 4: class based thresholding in segmentation."""

CHAPTER = "04-cbt"
REVISION = 2  # raise it when the meaning of the experiment changes: records and steps are made anew
