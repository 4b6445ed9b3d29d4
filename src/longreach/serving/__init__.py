"""An OpenAI-compatible server over many corpora; `create_app` makes it, `longreach serve` runs it.

Needs the extra `serve`: pip install "longreach[serve]".
"""
