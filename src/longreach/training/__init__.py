"""Floor 5: everything that is learned, thin over Trainer, accelerate and PEFT."""
