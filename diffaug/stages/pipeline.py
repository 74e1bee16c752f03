"""The road: each verb makes whatever is missing before it, and says beforehand what that is and how long it may take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffaug.audit.requests import Extras, FoldersRequest
from diffaug.budgets import BUDGETS
from diffaug.errors import DiffaugError
from diffaug.files import read_json
from diffaug.generator.estimate import in_short, largest_plan
from diffaug.generator.plan import GeneratorPlan
from diffaug.pretraining.images import folders_of
from diffaug.stages import audit as auditing
from diffaug.stages import fit as fitting
from diffaug.stages import pretrain as pretraining
from diffaug.stages import sample as sampling
from diffaug.stages.requests import FitRequest, PretrainRequest, SampleRequest
from diffaug.stages.stage import MANIFEST
from diffaug.training.devices import start_fabric
from diffaug.workspace import Workspace

Upstream = tuple[FitRequest | None, SampleRequest | None]


def fit(
    workspace: Workspace,
    request: FitRequest | None = None,
    *,
    device: str = "auto",
    fresh: bool = False,
    plan_only: bool = False,
) -> Path:
    """Fit the generator of a task, or go on fitting it.

    Args:
        workspace: The task's workspace.
        request: What is wanted; None takes whatever was asked before, or the defaults.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard what is there.
        plan_only: Whether to stop once the plan is written, for a person to edit it.

    Returns:
        The generator file, or the plan.

    Raises:
        DiffaugError: If an option or a scan is bad, or what was begun here was begun otherwise.
    """
    return fitting.fit(workspace, request, device=device, fresh=fresh, plan_only=plan_only)


def sample(
    workspace: Workspace, request: SampleRequest | None = None, *, device: str = "auto", fresh: bool = False
) -> Path:
    """Write synthetic volumes, or go on writing them; fits the generator first where there is none.

    Args:
        workspace: The task's workspace.
        request: What is wanted; None takes whatever was asked before, or the defaults.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard the volumes that are there.

    Returns:
        The folder, in nnU-Net's raw layout.

    Raises:
        DiffaugError: If an option is bad, or the set was begun with other options or another generator.
    """
    sampling.require_possible(request or SampleRequest())
    model = _generator("sample", workspace, None, device)
    return sampling.sample(workspace, model, request, device=device, fresh=fresh)


def audit(workspace: Workspace, extras: Extras | None = None, *, device: str = "auto", fresh: bool = False) -> Path:
    """Audit the synthetic volumes of a task; fits and samples first where that is missing.

    Args:
        workspace: The task's workspace.
        extras: What the user added.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an audit that is there.

    Returns:
        The report, one HTML file that needs nothing beside it. It shows real scans: treat it as patient data.

    Raises:
        DiffaugError: If generator or volumes are broken, or another process works here.
    """
    extras = extras or Extras()
    auditing.require_there(extras)
    model = _generator("audit", workspace, None, device)
    if fitting.FOREIGN in read_json(workspace.generator / MANIFEST, "run: diffaug fit --fresh"):
        raise DiffaugError(
            f"{model}: came from elsewhere, and its scans are not here, expected one fitted here; hold its volumes against "
            f"your own scans: diffaug audit --real {workspace.raw / 'imagesTr'} --synthetic "
            f"{workspace.synthetic / 'imagesTr'} --out FOLDER"
        )
    volumes = _volumes("audit", workspace, model, None, device)
    return auditing.audit(workspace, model, volumes, extras, device=device, fresh=fresh)


def audit_folders(
    request: FoldersRequest, out: Path, extras: Extras | None = None, *, device: str = "auto", fresh: bool = False
) -> Path:
    """Audit the volumes of any generator, from folders of files.

    Args:
        request: The folders.
        out: Where report, pictures and everything in between go.
        extras: What the user added.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an audit that is there.

    Returns:
        The report, as `audit` gives it.
    """
    extras = extras or Extras()
    auditing.require_there(extras)
    return auditing.audit_folders(request, out, extras, device=device, fresh=fresh)


def pretrain(
    workspace: Workspace,
    request: PretrainRequest | None = None,
    *,
    upstream: Upstream | None = None,
    device: str = "auto",
    fresh: bool = False,
) -> Path:
    """Pretrain the network of a task's nnU-Net plan, or go on; makes whatever is missing upstream first.

    Args:
        workspace: The task's workspace.
        request: What is wanted; None for the defaults.
        upstream: How to fit and sample where that has not been begun yet.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an encoder that is there.

    Returns:
        The encoder file.

    Raises:
        DiffaugError: If an option, a plan or an image is bad, or what was begun here was begun otherwise.
    """
    request = request or PretrainRequest()
    pretraining.require_possible(request)
    done = not fresh and pretraining.finished(workspace, request)
    if "synthetic" in request.images and not done:
        how = upstream or (None, None)
        pretraining.check(workspace, request)  # a slip must not show after hours of fitting
        others = folders_of(request.images)
        model = _generator("pretrain", workspace, how[0], device, others)
        _volumes("pretrain", workspace, model, how[1], device)
    return pretraining.pretrain(workspace, request, device=device, fresh=fresh)


def _generator(
    verb: str, workspace: Workspace, request: FitRequest | None, device: str, others: Sequence[Path] = ()
) -> Path:
    """Take the generator, or have it fitted: what has been begun goes on as it was begun."""
    file, plan_file = workspace.generator / MANIFEST, workspace.generator / "plan.json"
    target = workspace.generator / fitting.GENERATOR
    begun = read_json(file, "run: diffaug fit --fresh") if file.is_file() else None
    if begun is None or not begun.get("finished") or not target.is_file():
        fabric = start_fabric(device)
        budget = (request or FitRequest()).budget
        if budget not in BUDGETS:
            raise DiffaugError(f"--budget: found '{budget}', expected one of {', '.join(BUDGETS)}; fix the option")
        planned = begun is not None and plan_file.is_file()
        plan = GeneratorPlan.load(plan_file) if planned else largest_plan(budget)
        what = f"fit, {in_short(plan, fabric.device)}"
        if begun is None and budget.startswith("gpu") and fabric.device.type == "cpu":
            raise DiffaugError(
                f"{workspace.generator}: {verb} needs a generator, and there is none; {what}, for there is no GPU, expected "
                f"one that you have begun: diffaug fit --task {workspace.dataset} --budget cpu-small, or --budget {budget} "
                "if you mean it"
            )
        fabric.print(f"{verb}: {'the generator is unfinished' if begun else 'there is no generator yet'}; first {what}")
    asked = None if begun else request
    return fitting.fit(workspace, asked, device=device, fresh=False, plan_only=False, used=True, others=others)


def _volumes(verb: str, workspace: Workspace, model: Path, request: SampleRequest | None, device: str) -> Path:
    """Take the synthetic volumes, or have them made."""
    file = workspace.synthetic / MANIFEST
    begun = read_json(file, "run: diffaug sample --fresh") if file.is_file() else None
    if begun is None or not begun.get("finished"):
        count = begun["request"]["count"] if begun else (request or SampleRequest()).count
        start_fabric(device).print(f"{verb}: first sample, {count} volumes")
    return sampling.sample(workspace, model, None if begun else request, device=device, fresh=False)
