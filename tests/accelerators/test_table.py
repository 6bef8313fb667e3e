"""The table of what is compiled for accelerators holds everything; nothing is compiled here."""

import subjects

ALL = subjects.subjects()


def test_every_model_is_compiled() -> None:
    """Methods and chains have tables of their own, which are held complete where they are."""
    assert not subjects.missing_models(), "add one of each to MODELS of tests/accelerators/subjects.py"


def test_names_are_unique() -> None:
    assert len(subjects.BY_NAME) == len(ALL)


def test_the_covering_part_holds_every_family_and_every_kind_on_every_target() -> None:
    part = subjects.covering(ALL)
    met = {(subjects.BY_NAME[name].kind, subjects.BY_NAME[name].family) for name, _ in part}
    assert met == {(subject.kind, subject.family) for subject in ALL}
    kinds = {(subjects.BY_NAME[name].kind, target) for name, target in part}
    assert kinds == {(kind, target) for kind in ("method", "chain", "model") for target in subjects.TARGETS}
    assert len(part) < len(ALL)
