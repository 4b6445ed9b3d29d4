"""Keeps the embedding of every n-th token of a segment."""

from longreach.compressors.base import Compressor


class EveryNth(Compressor):
    """Of every `keep` tokens the first one stands for all."""

    method = "every-nth"

    def __init__(self, model, tokenizer, keep=4, *, segment_tokens=32):
        super().__init__(model, tokenizer, segment_tokens=segment_tokens)
        self.keep = keep

    def describe(self):
        return {"method": self.method, "keep": self.keep, "segment_tokens": self.segment_tokens}

    def vectors_in(self, tokens):
        return -(-tokens // self.keep)

    def stream(self, jobs, *, batch_size=None):
        return self.stream_segments(jobs, batch_size, lambda rows: [row[:: self.keep] for row in rows])
