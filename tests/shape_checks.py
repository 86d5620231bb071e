"""How the shapes in signatures are checked while the tests run; conftest.py installs it."""

from beartype import BeartypeConf, beartype

#: An int passes for a float, as type checkers have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
