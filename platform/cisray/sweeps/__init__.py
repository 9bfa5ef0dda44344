"""WHICH SETTINGS ARE BEST: search spaces, what is tried next, what is given up, and the leaderboard, without Ray.

All here are functions of a seed and of what earlier trials came to, in the order of their numbers and never in that of
their ends: a sweep that is killed and run again ends as one that nobody disturbed.
"""
