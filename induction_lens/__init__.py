"""Does this transformer have induction heads, and does its in-context learning depend on them?"""

__version__ = "0.1.0"
