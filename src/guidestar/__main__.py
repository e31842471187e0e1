"""`python -m guidestar` is the command line."""

from guidestar.cli import main

main()
