"""`python -m tsa` is `tsa`."""

from tsa.cli import main

main()
