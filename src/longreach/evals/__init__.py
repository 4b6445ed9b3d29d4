"""How good answers are, and what they take: suites, systems, runs, scores and reports."""
