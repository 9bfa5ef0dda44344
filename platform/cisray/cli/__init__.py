"""The command line: the only place where job files, flows and tracking meet.

Every verb imports what it runs, so that --help and --version answer at once.
"""
