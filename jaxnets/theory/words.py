"""Words of bits as one number, and the length at which floats lose them.

A word is a text of 0 and 1, such as "11001".
"""

from fractions import Fraction

HALF = Fraction(1, 2)


def binary_code(word: str) -> Fraction:
    """`delta(w) = sum_i w_i 2^-i + 2^-(n + 1)`: a number in (0, 1) for each word, all different. The empty word is 1/2.

    The codes of words of up to `n` bits are `2^-(n + 1)` apart. A network that compares them needs weights that grow with
    `n`, and a float holds a code exactly up to `n = 23` (float32) or 52 (float64) bits.
    """
    _check(word)
    bits = sum((Fraction(int(bit), 2**place) for place, bit in enumerate(word, 1)), Fraction(0))
    return bits + Fraction(1, 2 ** (len(word) + 1))


def from_binary_code(number: Fraction | float, *, longest: int = 10_000) -> str:
    """The word of a code.

    Raises:
        ValueError: no word of at most `longest` bits has it.
    """
    rest, word = Fraction(number), ""
    while rest != HALF:
        bit = rest > HALF
        word, rest = word + "01"[bit], 2 * rest - bit
        if len(word) > longest or not 0 < rest < 1:
            raise ValueError(f"{number} is the code of no word of at most {longest} bits; codes come from binary_code")
    return word


def cantor_code(word: str) -> Fraction:
    """`sum_i (2 w_i + 1) 4^-i`: a number in [0, 1) for each word, all different (Siegelmann and Sontag 1995). The empty
    word is 0.

    A code lies in [1/4, 1/2) if the word begins with 0, and in [3/4, 1) if it begins with 1. The gap between does not
    shrink with the length, so `clip(4 q - 2)` reads the first bit of a word of any length. The cost is two bits of the number
    for each bit of the word.
    """
    _check(word)
    return sum((Fraction(2 * int(bit) + 1, 4**place) for place, bit in enumerate(word, 1)), Fraction(0))


def from_cantor_code(number: Fraction | float, *, longest: int = 10_000) -> str:
    """The word of a code.

    Raises:
        ValueError: no word of at most `longest` bits has it.
    """
    rest, word = Fraction(number), ""
    while rest:
        bit = rest >= Fraction(3, 4)
        word, rest = word + "01"[bit], 4 * rest - 2 * bit - 1
        if len(word) > longest or not 0 <= rest < 1:
            raise ValueError(f"{number} is the code of no word of at most {longest} bits; codes come from cantor_code")
    return word


def _check(word: str) -> None:
    if set(word) - {"0", "1"}:
        raise ValueError(f"a word has the letters 0 and 1, got {word!r}")
