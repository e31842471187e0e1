"""The files of cases are data of the tests, not modules with doctests."""

collect_ignore_glob = ["cases*.py"]
