"""Every decoder architecture, tiny and random, against plain Hugging Face code.

Nothing of the reference comes from the package: `plain` has the definitions, written on the Hugging
Face model alone. `python -m tests.architectures` runs all and says of each number whether it is
exact, refused, or silently wrong.
"""
