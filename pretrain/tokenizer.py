"""A small byte-level BPE in CLIP's format, trained on our captions and labels. No word is unknown to it."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

VOCABULARY_SIZE = 2048
MAX_TOKENS = 32
EXTRA_WORDS = ["sks", "cat", "monkey", "toy", "person", "object", "drawing", "style"]  # whole words for users' prompts
START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: list[str], labels: list[str], folder: Path) -> CLIPTokenizer:
    """Learn the merges and save vocab.json, merges.txt and tokenizer.json in `folder`.

    Our captions come many times over, so their words become single tokens first; the labels of all other
    concepts fill the rest of the vocabulary, so that the concept set can grow without a new tokenizer.
    """
    lowered = [text.lower() for text in [*captions, *labels, *(100 * EXTRA_WORDS)]]
    splitter = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    clip = CLIPTokenizer()
    assert clip.backend_tokenizer.pre_tokenizer is not None
    splitter.pre_tokenizer = clip.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(alphabet) - 2,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    splitter.train_from_iterator(lowered, trainer)
    learnt = json.loads(splitter.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    units = [*alphabet, *(f"{char}</w>" for char in alphabet)]
    units += ["".join(pair) for pair in merges]
    vocabulary = {unit: index for index, unit in enumerate(dict.fromkeys([*units, START, END]))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)  # pyright: ignore[reportArgumentType]
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return tokenizer
