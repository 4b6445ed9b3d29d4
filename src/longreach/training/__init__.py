"""What is learned: a longer window, a compressor, a corpus; thin over transformers' Trainer, accelerate and PEFT."""
