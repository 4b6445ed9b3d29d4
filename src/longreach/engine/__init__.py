"""One model at work: prompts in, tokens out."""
