"""Strategies and models side by side: what a comparison found, its statistics, tables and figures."""
