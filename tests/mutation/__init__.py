"""Do the tests notice a wrong program? Faults are put into modules one by one, and tests run.

Not part of the test run. Start it with `python -m tests.mutation`; it needs the extra `mutation`.
What survives, and why, is in `survivors.md` beside this file.
"""
