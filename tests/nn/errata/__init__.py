"""The printed equations of the paper, taken at their word and measured.

Each erratum evaluates a formula exactly as it is printed, and as it must be, and compares both with
the definition: the numerical derivative, or the operation the text describes. `docs/errata.md` is
what `python -m tests.nn.errata` prints.
"""
