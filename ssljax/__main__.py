"""`python -m ssljax` is the command `ssljax`."""

from ssljax.cli.main import main

if __name__ == "__main__":
    main()
