"""`python -m fedjaxlite` is the command line."""

from fedjaxlite.cli import main

if __name__ == "__main__":
    main()
