"""Sentence pairs made step by step from lists of tokens, to hold `instances.plan` to."""

import random


def all_pairs(documents, length, rng: random.Random, short_share=0.1, **slips):
    """`(a, b, is_random)` of every document; documents are lists of sentences, sentences lists of tokens.

    `slips` are mistakes that one might make, for showing that the comparison finds them.
    """
    found = []
    for number in range(len(documents)):
        found += document_pairs(documents, number, length, rng, short_share, **slips)
    return found


def document_pairs(documents, number, length, rng, short_share, put_back=True, even_coin=0.5, middle=False, any_b=True):
    most = length - 3
    goal = rng.choice(range(2, most + 1)) if rng.random() < short_share else most
    waiting = list(documents[number])
    found = []
    while waiting:
        gathered = [waiting.pop(0)]
        while waiting and sum(map(len, gathered)) < goal:
            gathered.append(waiting.pop(0))
        for_a = 1
        if len(gathered) > 1:
            for_a = len(gathered) // 2 if middle else rng.choice(range(1, len(gathered)))
        a = [token for sentence in gathered[:for_a] for token in sentence]
        rest = gathered[for_a:]
        from_elsewhere = not rest or rng.random() < 0.5
        if from_elsewhere:
            b = sentences_of_another(documents, number, goal - len(a), rng, any_b)
            if put_back:
                waiting = rest + waiting
        else:
            b = [token for sentence in rest for token in sentence]
        shorten(a, b, most, rng, even_coin)
        found.append((a, b, from_elsewhere))
    return found


def sentences_of_another(documents, number, enough, rng, any_b):
    other = number
    while other == number:
        other = rng.randrange(len(documents))
    begin = rng.randrange(len(documents[other])) if any_b else 0
    b = []
    for sentence in documents[other][begin:]:
        b += sentence
        if len(b) >= enough:
            break
    return b


def shorten(a, b, most, rng, even_coin=0.5):
    """Drop tokens from the longer list (the second one of equals), in place, until both fit."""
    while len(a) + len(b) > most:
        longer = a if len(a) > len(b) else b
        if rng.random() < even_coin:
            del longer[0]
        else:
            del longer[-1]
