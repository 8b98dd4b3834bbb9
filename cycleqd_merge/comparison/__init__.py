"""Strategies and static merges compared on the same models, data and budget: runs, statistics, tables, figures."""
