"""Everything that is learned, thin over Trainer, accelerate and PEFT."""
