"""`python -m tsa` is `tsa`."""

from tsa.cli import main

if __name__ == "__main__":
    main()
