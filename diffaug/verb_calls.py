"""What each verb calls; what needs torch is imported then, so that `--help` need not wait for it."""

from __future__ import annotations

import re
from pathlib import Path

from diffaug.audit.requests import Extras
from diffaug.dicom.requests import ImportRequest
from diffaug.errors import DiffaugError
from diffaug.reader_study.requests import AnalyseRequest, MakeRequest, ServeRequest
from diffaug.stages.requests import FitRequest, PretrainRequest, SampleRequest
from diffaug.verb_options import (
    Demo,
    Export,
    Folders,
    Foreign,
    Import,
    MaybeTask,
    Network,
    Phantom,
    Plan,
    PlanOnly,
    Run,
    ShareModel,
    Task,
)
from diffaug.workspace import Workspace, dataset_name, nnunet_folder


def fit(task: Task, request: FitRequest, run: Run, how_far: PlanOnly) -> None:
    """Run the verb of this name."""
    from diffaug.stages.pipeline import fit

    print(f"fit: {fit(task.workspace(), request, **vars(run), **vars(how_far))}")


def sample(task: Task, request: SampleRequest, foreign: Foreign, run: Run) -> None:
    """Run the verb of this name."""
    from diffaug.stages.pipeline import sample

    _take(task, foreign, run)
    folder = sample(task.workspace(), request, **vars(run))
    print(f"sample: {folder}, look at {folder / 'montage.png'}")


def audit(task: MaybeTask, folders: Folders, extras: Extras, run: Run) -> None:
    """Run the verb of this name."""
    from diffaug.audit.requests import FoldersRequest
    from diffaug.stages.pipeline import audit, audit_folders

    if task.task and not any(vars(folders).values()):
        report = audit(task.workspace(), extras, **vars(run))
    elif folders.real and folders.synthetic and not task.task:
        request = FoldersRequest(folders.real, folders.synthetic, folders.unseen)
        report = audit_folders(request, folders.out or Path("diffaug_audit"), extras, **vars(run))
    else:
        raise DiffaugError("audit: expected --task, or --real and --synthetic and no --task; fix the options")
    print(f"audit: {report}")


def pretrain(
    task: Task,
    request: PretrainRequest,
    upstream: FitRequest,
    count: SampleRequest,
    foreign: Foreign,
    network: Network,
    run: Run,
) -> None:
    """Run the verb of this name."""
    from diffaug.stages.pipeline import pretrain

    _take(task, foreign, run)
    workspace = task.workspace(network.network)
    print(f"pretrain: {pretrain(workspace, request, upstream=(upstream, count), **vars(run))}")


def _take(task: Task, foreign: Foreign, run: Run) -> None:
    if foreign.generator:
        from diffaug.stages.travel import import_generator
        from diffaug.training.devices import start_fabric

        fabric = start_fabric(run.device)
        if fabric.is_global_zero:
            import_generator(task.workspace(), foreign.generator)
        fabric.barrier()  # the others of torchrun find it there


def export(task: Task, network: Network, export: Export) -> None:
    """Run the verb of this name."""
    from diffaug.pretraining.sharing import export_encoder
    from diffaug.stages.travel import export_generator

    if export.out and not export.generator:
        print(f"export: {export_encoder(task.workspace(network.network), export.out)}")
    elif export.generator and not export.out:
        told = {"origin": export.origin, "licence": export.licence}
        print(f"export: {export_generator(task.workspace(), export.generator, **told)}")
    else:
        raise DiffaugError("export: expected --out FILE for the encoder, or --generator FILE; fix the options")


def import_(task: Task, network: Network, wanted: Import) -> None:
    """Run the verb of this name."""
    from diffaug.pretraining.sharing import import_encoder
    from diffaug.stages.travel import import_generator

    if wanted.file and not wanted.generator:
        print(f"import: {import_encoder(task.workspace(network.network), wanted.file, fresh=wanted.fresh)}")
    elif wanted.generator and not wanted.file:
        print(f"import: {import_generator(task.workspace(), wanted.generator, fresh=wanted.fresh)}")
    else:
        raise DiffaugError("import: expected --file FILE, an encoder, or --generator FILE; fix the options")


def share_model(wanted: ShareModel) -> None:
    """Run the verb of this name."""
    from diffaug.pretraining.sharing import share_model

    print(f"share-model: {share_model(wanted.model, wanted.out)}")


def plan(plan: Plan, network: Network) -> None:
    """Run the verb of this name."""
    from diffaug.nnunet.budget_configurations import add_budget_configuration, ensure_plans
    from diffaug.nnunet.families import require_network
    from diffaug.scans.exclusion import excluded_ids

    require_network(network.network)
    workspace = Workspace(dataset_name(plan.task), plan.plans, plan.base)
    file = ensure_plans(workspace.dataset, plan.plans, excluded_ids(workspace, plan.exclude))
    name = add_budget_configuration(
        file, budget=plan.budget, base=plan.base, epochs=plan.epochs, network=network.network
    )
    print(f"plan: {file}, configuration {name}")


def phantom(wanted: Phantom) -> None:
    """Run the verb of this name."""
    from diffaug.phantom.dataset import write_dataset

    print(f"phantom: {write_dataset(**vars(wanted))}")


def trainer_path() -> None:
    """Run the verb of this name."""
    from nnunet_plugin.trainer_path import trainer_path

    print(trainer_path())


def doctor(task: MaybeTask, network: Network) -> None:
    """Run the verb of this name."""
    from diffaug.doctor import examine

    examine(task.task or None, task.plans, task.configuration, network.network)


def import_dicom(request: ImportRequest) -> None:
    """Run the verb of this name."""
    from diffaug.dicom.importing import import_studies

    raw = nnunet_folder("nnUNet_raw")
    new = re.fullmatch(r"Dataset\d{3}_[A-Za-z0-9_-]+", request.task)
    dataset = raw / (request.task if new else dataset_name(request.task))
    folder = import_studies(request, dataset)
    if not request.dry_run:
        print(f"import-dicom: {folder}")


def make_study(task: MaybeTask, request: MakeRequest, run: Run) -> None:
    """Run the verb of this name."""
    from diffaug.reader_study.making import make
    from diffaug.reader_study.sides import of_folders
    from diffaug.stages.study import sides_of_task

    if task.task and not (request.real or request.synthetic):
        workspace = task.workspace()
        page = make(request, workspace.dataset, lambda: sides_of_task(workspace, request), fresh=run.fresh)
    elif not task.task:
        page = make(request, "", lambda: of_folders(request), fresh=run.fresh)
    else:
        raise DiffaugError(
            "reader-study make: expected --task, or --real and --synthetic and no --task; fix the options"
        )
    print(f"reader-study make: {page}, give readers its folder; the key stays with you: {request.key_file}")


def serve_study(request: ServeRequest) -> None:
    """Run the verb of this name."""
    from diffaug.reader_study.serving import address, open_server

    with open_server(request) as server:
        print(f"reader-study serve: {address(server)}, answers go to {request.answers}; Ctrl-C ends", flush=True)
        server.serve_forever()


def analyse_study(request: AnalyseRequest) -> None:
    """Run the verb of this name."""
    from diffaug.reader_study.analysing import analyse

    print(f"reader-study analyse: {analyse(request)}")


def demo(wanted: Demo) -> None:
    """Run the verb of this name."""
    from diffaug.demo import demo

    demo(**vars(wanted))
