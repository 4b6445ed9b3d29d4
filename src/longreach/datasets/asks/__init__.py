"""Texts made to be asked about: facts far away from the question that needs them.

A window that reads on well never has to look further back. Rows of this package cannot be completed
without doing so: each holds facts, text around them, and questions at its end. Training on as few
as a million of such tokens teaches retrieval without harm to other skills: "From Artificial Needles
to Real Haystacks", arXiv 2406.19292.
"""
