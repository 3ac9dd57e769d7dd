"""Sqids (sqids.org) of one number: the short id of a run in page addresses.

The reference algorithm, its default alphabet, a least length of five; without its list of blocked words.
"""

_MIN_LENGTH = 5


def _shuffle(alphabet: str) -> str:
    letters = list(alphabet)
    size = len(letters)
    for low in range(size - 1):
        high = size - 1 - low
        other = (low * high + ord(letters[low]) + ord(letters[high])) % size
        letters[low], letters[other] = letters[other], letters[low]
    return "".join(letters)


_ALPHABET = _shuffle("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def _rotated(offset: int) -> str:
    return _ALPHABET[offset:] + _ALPHABET[:offset]


def _digits(number: int, alphabet: str) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, len(alphabet))
        digits = alphabet[digit] + digits
        if number == 0:
            return digits


def encode(number: int) -> str:
    """The sqid of a non-negative number."""
    size = len(_ALPHABET)
    alphabet = _rotated((1 + ord(_ALPHABET[number % size])) % size)
    prefix, alphabet = alphabet[0], alphabet[::-1]
    sqid = prefix + _digits(number, alphabet[1:])
    if len(sqid) < _MIN_LENGTH:
        sqid += alphabet[0]
    while len(sqid) < _MIN_LENGTH:
        alphabet = _shuffle(alphabet)
        sqid += alphabet[: _MIN_LENGTH - len(sqid)]
    return sqid


def decode(sqid: str) -> int | None:
    """The first number in a sqid, None when there is none. Nearly any word decodes to something."""
    if not sqid or any(letter not in _ALPHABET for letter in sqid):
        return None
    alphabet = _rotated(_ALPHABET.index(sqid[0]))[::-1]
    digits = sqid[1:].partition(alphabet[0])[0]
    if not digits:
        return None
    number = 0
    for letter in digits:
        number = number * (len(alphabet) - 1) + alphabet[1:].index(letter)
    return number
