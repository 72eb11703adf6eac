"""Simulations of the statistics that the package prints, with known truth."""
