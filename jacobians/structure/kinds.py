"""The names of structures, what each means, and a `Structure` as a value.

A structure is named after the whole m×n matrix of a block, its tensors flattened in row-major
order. Kinds are ordered from the most to the least specific; a block is called by the first that
holds, and its properties list all that do.

    >>> str(Structure("banded", (("lower", 1), ("upper", 0))))
    'banded: 1 below the diagonal, 0 above'
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jacobians.notation.numbers import number_text

DEFINITIONS: dict[str, str] = {
    "zero": "no entry can be nonzero",
    "identity": "the identity matrix",
    "scaled-identity": "one number times the identity",
    "diagonal": "square, nonzero on the diagonal only",
    "permutation": "square, one 1 in each row and each column",
    "selection": "entries 0 and 1, at most one 1 in each row: outputs are copies of inputs",
    "block-diagonal": "equal-sized blocks along the diagonal, zero elsewhere",
    "circulant": "square, each row the one above moved by one, cyclically",
    "toeplitz": "constant along each diagonal",
    "banded": "zero beyond a few diagonals on either side",
    "lower-triangular": "zero above the diagonal, entry- or block-wise",
    "upper-triangular": "zero below the diagonal, entry- or block-wise",
    "kronecker": "the Kronecker product of two smaller matrices",
    "outer": "an outer product: rank one",
    "diagonal-plus-low-rank": "a diagonal matrix plus a matrix of low rank",
    "sparse": "at least half of the entries zero, in no pattern named above",
    "dense": "none of the above",
}

KINDS: tuple[str, ...] = tuple(DEFINITIONS)

VALUE_PROPERTIES: dict[str, str] = {
    "constant": "the same at every point: the function is affine in that input",
    "symmetric": "equal to its transpose",
}


@dataclass(frozen=True)
class Structure:
    """The name of a structure with its parameters.

    Attributes:
        kind: one of `KINDS`.
        parameters: (name, value) pairs: `lower` and `upper` bandwidth; `blocks` and `block_shape`;
            `equal` (all blocks equal) and `inner` (the blocks' own structure); `scale`; `rank`;
            `left` and `right` shapes of a Kronecker product; `varies` for a permutation or
            selection that differs from point to point; `toeplitz` for a triangular or banded
            matrix that is Toeplitz too; `gradient` for an outer product over the input's axes.
    """

    kind: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a parameter, or the default."""
        return dict(self.parameters).get(name, default)

    def __str__(self) -> str:
        return _describe(self)


def kinds_of(structures: Iterable[Structure], chosen: Structure) -> set[str]:
    """The kinds of structures, as properties beside the chosen name.

    A triangle of blocks is no triangle of entries: unless it is the chosen name, it is listed as
    `block-lower-triangular` or `block-upper-triangular`.
    """
    blocks = {f"block-{s.kind}" if _of_blocks(s) else s.kind for s in structures}
    return blocks | {chosen.kind}


def _of_blocks(s: Structure) -> bool:
    return s.kind in ("lower-triangular", "upper-triangular") and s.get("blocks") is not None


def most_specific(structures: Iterable[Structure]) -> Structure:
    """The first of some structures in the order of `KINDS`; dense when there is none."""
    return min(structures, key=lambda s: KINDS.index(s.kind), default=Structure("dense"))


def dimensions(shape: tuple[int, int]) -> str:
    """A matrix shape as text: `8×8`."""
    return f"{shape[0]}×{shape[1]}"


def _describe(s: Structure) -> str:
    """A structure in words with its parameters: `banded: 1 below the diagonal, 0 above`."""
    toeplitz = ", Toeplitz" if s.get("toeplitz") else ""
    if s.kind == "scaled-identity":
        scale = s.get("scale")
        if scale is None:
            return "scaled identity"
        return f"scaled identity: {number_text(float(scale))} · I"
    if s.kind in ("permutation", "selection"):
        return s.kind + (" (differs from point to point)" if s.get("varies") else "")
    if s.kind == "block-diagonal":
        return _blocks(s)
    if s.kind == "kronecker":
        return _kronecker(s)
    if s.kind == "banded":
        return f"banded: {s.get('lower')} below the diagonal, {s.get('upper')} above{toeplitz}"
    if s.kind in ("lower-triangular", "upper-triangular"):
        if s.get("blocks"):
            return f"block {s.kind}: {s.get('blocks')} steps of {dimensions(s.get('block_shape'))}"
        return s.kind + toeplitz
    if s.kind == "toeplitz":
        return "Toeplitz"
    if s.kind == "outer":
        return "outer product" + (" over the input's axes" if s.get("gradient") else ", rank 1")
    if s.kind == "diagonal-plus-low-rank":
        rank = s.get("rank")
        words = {1: "one", 2: "two", 3: "three"}
        return f"diagonal plus rank {words.get(rank, rank)}"
    return s.kind


def _blocks(s: Structure) -> str:
    text = f"block-diagonal: {s.get('blocks')} blocks of {dimensions(s.get('block_shape'))}"
    if s.get("equal"):
        text += f", all equal (Kronecker I ⊗ {s.get('factor') or 'B'})"
    inner = s.get("inner")
    return text if inner is None or inner.kind == "dense" else f"{text}, each {inner}"


def _kronecker(s: Structure) -> str:
    if s.get("blocks"):
        return f"Kronecker product: I({s.get('blocks')}) ⊗ {dimensions(s.get('block_shape'))}"
    left, right = s.get("left"), s.get("right")
    factors = [
        f"I({shape[0]})" if s.get(f"{side}_identity") else dimensions(shape)
        for side, shape in (("left", left), ("right", right))
    ]
    return f"Kronecker product: {factors[0]} ⊗ {factors[1]}"
