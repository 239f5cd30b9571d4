"""A reward function as a user writes it."""


def exact(completions, answer):
    """1 for the answer itself."""
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]
