"""Circuits: how heads compose, read from weights and from runs."""

__all__: list[str] = []
