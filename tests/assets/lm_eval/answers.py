"""Numbers that tell one generated text from another."""


def numbers(document, results):
    (text,) = results
    target = document["choices"][document["answer"]]
    weighted = sum(place * ord(letter) for place, letter in enumerate(text, 1))
    return {"exact_match": float(text == target), "checksum": float(weighted)}
