"""How nnU-Net finds a trainer by its name."""

from __future__ import annotations

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name


def find_trainer(name: str) -> type:
    """Let nnU-Net look a trainer up, as training and prediction will.

    Args:
        name: Of the class.

    Returns:
        The class.
    """
    return recursive_find_trainer_class_by_name(name)
