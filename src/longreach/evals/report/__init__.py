"""Runs of evaluations as one page, with tables and charts."""
