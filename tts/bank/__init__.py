"""Recorded samples, kept to be drawn from again: a folder of Parquet files that any tool can read.

    bank.json                what was sampled: model, sampling, source, and on what terms it may be kept
    problems.jsonl           what was asked, one line per problem
    complete.jsonl           of which problem and seed how many samples are all there
    samples/*.parquet        every sample; a row group holds samples of one problem
    scores/NAME/*.parquet    what a verifier said of the steps of each sample; verifier.json beside them says which
    tokenizer.json           what spells the tokens, if a sample has to be cut
    filling.jsonl            samples that are in no Parquet file yet: what a kill leaves behind

A sample is known by its problem, its seed and its number, so banks can be extended and merged without counting
anything twice.
"""

from tts.bank.filling import Filling, merge, write_scores
from tts.bank.nouns import FILLING, PROBLEMS, SAMPLES, TOKENIZER, Asked, Complete, Drawn, Manifest, Source, Terms
from tts.bank.reading import Bank, Reading

__all__ = [
    "FILLING",
    "PROBLEMS",
    "SAMPLES",
    "TOKENIZER",
    "Asked",
    "Bank",
    "Complete",
    "Drawn",
    "Filling",
    "Manifest",
    "Reading",
    "Source",
    "Terms",
    "merge",
    "write_scores",
]
