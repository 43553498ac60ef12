"""The demo model's tokenizer: the structure of Gemma 4's tokenizer.json with a small vocabulary.

In        training text and a vocabulary size.
Out       tokenizer.json as a dictionary. Ids 0..106 are the published ones, 107 is a newline; the seven media tokens
          are the last seven ids.
Pieces    small words with their leading space. Digits, punctuation and the space before a capital stand alone, so that a
          number is spelled digit by digit and a name reads the same inside and outside of quotes.
"""

import json

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

CONTROL = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4, "<|tool>": 46, "<tool|>": 47, "<|tool_call>": 48,
           "<tool_call|>": 49, "<|tool_response>": 50, "<tool_response|>": 51, '<|"|>': 52, "<|think|>": 98,
           "<|channel>": 100, "<channel|>": 101, "<|turn>": 105, "<turn|>": 106}
MEDIA = ("<|image>", "<|audio>", "<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>")
NUM_CONTROL = 107
SPACE = "\u2581"


def media_ids(vocab_size):
    return {name: vocab_size - len(MEDIA) + offset for offset, name in enumerate(MEDIA)}


def control_vocabulary():
    by_id = {idx: name for name, idx in CONTROL.items()}
    by_id[5] = "[multimodal]"
    return {by_id.get(idx, f"<unused{idx - 6}>"): idx for idx in range(NUM_CONTROL)}


def learned_pieces(text, limit):
    """Printable ASCII, then words and word parts by falling frequency of their merge."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", "removed"), pre_tokenizers.Split(Regex(r"[^\p{L}▁]"), "isolated"),
        pre_tokenizers.Split(Regex(r"▁(?=\p{Lu})"), "isolated"), pre_tokenizers.Split(SPACE, "merged_with_next")])
    bpe.train_from_iterator(text.replace(" ", SPACE).splitlines(),
                            trainers.BpeTrainer(vocab_size=limit, min_frequency=5, show_progress=False))
    ranked = sorted(bpe.get_vocab().items(), key=lambda entry: entry[1])
    letters = [SPACE] + [chr(code) for code in range(0x21, 0x7F)]
    return letters + [piece for piece, _ in ranked if len(piece) > 1]


def build(text, vocab_size):
    """tokenizer.json; fails when the text is too small to fill the vocabulary."""
    pieces = ["\n" * count for count in range(1, 9)] + [SPACE * count for count in range(2, 9)]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    ordinary = [piece for piece in learned_pieces(text, 2 * vocab_size) if piece not in pieces]
    room = vocab_size - NUM_CONTROL - len(MEDIA) - len(pieces)
    if len(ordinary) < room:
        raise ValueError(f"the text gives {len(ordinary)} pieces, the vocabulary has room for {room}; give more text")
    vocab = control_vocabulary()
    for piece in pieces + ordinary[:room]:
        vocab[piece] = len(vocab)
    merges = []  # as in an exported SentencePiece model: every split into two known pieces, ranked by the id of the whole
    for piece in [p for p in vocab if vocab[p] >= NUM_CONTROL and not p.startswith("<0x")]:
        for cut in range(len(piece) - 1, 0, -1):
            if piece[:cut] in vocab and piece[cut:] in vocab:
                merges.append([piece[:cut], piece[cut:]])
    vocab |= media_ids(vocab_size)
    special = sorted((CONTROL | media_ids(vocab_size)).items(), key=lambda entry: entry[1])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": idx, "content": name} | flags for name, idx in special],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {"type": "TemplateProcessing", "single": [sequence],
                           "pair": [sequence, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": merges},
    }


def to_json(spec):
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n"
