"""A plan that somebody edited: what was changed since the generator was fitted by it, and what `--fresh` keeps of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan

BEFORE = "plan.before"  # how names of plans begin that --fresh has discarded


def edits(plan_file: Path, generator: Path) -> list[str]:
    """Name what was edited in a plan after the generator had been fitted by it.

    Args:
        plan_file: The plan; it may be gone.
        generator: The generator file.

    Returns:
        One text an edit.
    """
    if not plan_file.is_file():
        return []
    fitted = Generator.load(generator).plan
    return [f"{plan_file.name}: {text}" for text in GeneratorPlan.load(plan_file).changes(fitted)]


def keep_edited(plan_file: Path, plan: GeneratorPlan) -> list[str]:
    """Keep a copy of a plan that is about to be discarded, where it is not the one that is made anew.

    Args:
        plan_file: The plan; it may be missing.
        plan: The one that is made anew.

    Returns:
        Names of files that must not be discarded.
    """
    kept = [file.name for file in plan_file.parent.glob(f"{BEFORE}*.json")]
    try:
        if not plan_file.is_file() or not plan.changes(GeneratorPlan.load(plan_file)):
            return kept
    except DiffaugError:
        pass  # broken, and yet somebody's work
    name = f"{BEFORE}.{len(kept) + 1}.json" if kept else f"{BEFORE}.json"
    with atomic_path(plan_file.with_name(name)) as temporary:
        shutil.copyfile(plan_file, temporary)
    print(f"fit: the plan is made anew, the one before is kept as {name}", flush=True)
    return [*kept, name]
