"""Benchmarks: `python -m tests.benchmarks` measures costs against plain ways of doing the same."""
