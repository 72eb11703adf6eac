"""The built-in detectors, in the order in which scores list them.

A detector that is added to `BUILT_IN` is scored, tracked, listed by the command line, and described
on pages like the others: nothing else knows them one by one.
"""

from __future__ import annotations

from induction_lens import checks
from induction_lens.detectors import targets
from induction_lens.detectors.detector import AttentionDetector, CopyingDetector, Detector

_PAPER = 'Olsson et al. 2022, "Head activation evaluators"'

PREVIOUS_TOKEN = AttentionDetector(
    "previous_token",
    targets.previous_token,
    title="Previous token",
    caption="Attention on the token just before. Such a head tells the next layer what came before "
    "each token: the first half of the circuit.",
    by_content=False,
    unmeasured="no token has another than BOS before it",
    source=_PAPER,
)
INDUCTION = AttentionDetector(
    "induction",
    targets.induction,
    title="Induction (prefix matching)",
    caption="Attention on the tokens that followed earlier copies of the current one: the second "
    "half.",
    unmeasured="no token comes twice",
    source=_PAPER,
    outlines_induction_heads=True,
)
DUPLICATE_TOKEN = AttentionDetector(
    "duplicate_token",
    targets.duplicate_token,
    title="Duplicate token",
    caption="Attention on earlier copies of the current token itself.",
    unmeasured="no token comes twice",
)
COPYING = CopyingDetector(
    "copying",
    from_weights=False,
    title="Copying, on a run",
    caption="Whether a head raises the logits of the tokens it attends to (1), of others (−1), or "
    "neither (0).",
    unmeasured="there is no token but BOS",
    source=_PAPER,
)
COPYING_WEIGHTS = CopyingDetector(
    "copying_weights",
    from_weights=True,
    title="Copying, from weights",
    caption="The same read off the eigenvalues of the head's value-output circuit.",
    source='Elhage et al. 2021, "Copying / primitive ICL"',
)

BUILT_IN: tuple[Detector, ...] = (
    PREVIOUS_TOKEN,
    INDUCTION,
    DUPLICATE_TOKEN,
    COPYING,
    COPYING_WEIGHTS,
)
"""Every built-in detector, in the order of scores."""
DETECTORS: tuple[str, ...] = tuple(detector.name for detector in BUILT_IN)
"""Their names."""
_OWN = "an own one is an induction_lens.detectors.AttentionDetector"


def attention_detector(detector: AttentionDetector | str) -> AttentionDetector:
    """A detector of attention, by its name or as it is.

    Raises:
        ValueError: For another name, with the closest one, or something else.
    """
    if isinstance(detector, AttentionDetector):
        return detector
    known = {one.name: one for one in BUILT_IN if isinstance(one, AttentionDetector)}
    return known[checks.one_of("detector", detector, known)]


def chosen_detectors(detectors: object) -> list[Detector]:
    """Detectors from a list of names and objects: built-in ones first, in the order of `BUILT_IN`,
    then own ones, as given.

    Raises:
        ValueError: If there is none, one is unknown, or two have one name.
    """
    alone = isinstance(detectors, (str, Detector))
    given = checks.several("detectors", [detectors] if alone else detectors)
    if not given:
        condition = f"at least one of {', '.join(DETECTORS)}"
        raise checks.refuse("detectors", condition, detectors, "name one", given="none")
    found = [_detector(value) for value in given]
    names = [detector.name for detector in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        remedy = f"name {twice} once, and give own detectors names of their own"
        raise checks.refuse("detectors", "of different names", twice, remedy, given=f"two {twice}")
    own = [detector for detector in found if detector.name not in DETECTORS]
    return [detector for detector in BUILT_IN if detector in found] + own


def own_detectors(detectors: object) -> tuple[AttentionDetector, ...]:
    """Detectors of a user's own, to be measured beside the built-in ones; there may be none.

    Raises:
        ValueError: If one is none, or two have one name, a built-in one's included.

    Examples:
        >>> from dataclasses import replace
        >>> mine = replace(il.detectors.INDUCTION, name="mine")
        >>> [detector.name for detector in il.detectors.own_detectors([mine])]
        ['mine']
    """
    alone = isinstance(detectors, (str, Detector))
    given = checks.several("detectors", [detectors] if alone else detectors)
    for value in given:
        if not isinstance(value, AttentionDetector) or value in BUILT_IN:
            shown = value.name if isinstance(value, Detector) else checks.shown(value)
            remedy = f"the built-in ones are always measured, and {_OWN}"
            raise checks.refuse("detectors", "own detectors", value, remedy, given=shown)
    chosen_detectors([*BUILT_IN, *given])
    return tuple(given)


def _detector(value: object) -> Detector:
    """A built-in detector by its name, or a detector as it is."""
    if isinstance(value, str):
        name = checks.one_of("each of detectors", value, DETECTORS)
        return BUILT_IN[DETECTORS.index(name)]
    if isinstance(value, Detector) and value in BUILT_IN:
        return value
    if not isinstance(value, AttentionDetector):
        condition = f"one of {', '.join(DETECTORS)}, or an AttentionDetector"
        raise checks.refuse("each of detectors", condition, value, "choose one of them")
    if value.name in DETECTORS:
        condition = "no name of a built-in detector"
        remedy = f"{_OWN} with a name of its own"
        raise checks.refuse("the name of an own detector", condition, value.name, remedy)
    return value
