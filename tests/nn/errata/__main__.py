"""Print `docs/errata.md`."""

from .document import document

print(document(), end="")
