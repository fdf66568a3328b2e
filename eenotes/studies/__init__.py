"""The chapters' experiments as plain functions: a chapter calls them once, ``python -m eenotes.studies`` with many seeds.

They stand to the package as the notebooks do: they may use everything, and nothing but notebooks uses them.
"""
