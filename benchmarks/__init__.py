"""The book's speed claims, as ratios measured in one run of one process:

``python -m benchmarks``.
"""
