"""Run the command line: python -m cisray."""

from cisray.cli import main

if __name__ == "__main__":
    main()
