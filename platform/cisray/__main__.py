"""Run the command line: python -m cisray."""

from cisray.cli.app import main

if __name__ == "__main__":
    main()
