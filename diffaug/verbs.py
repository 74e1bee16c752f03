"""The verbs: each is what it may be asked, in dataclasses, and what it then calls; what needs torch is imported then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.audit.requests import Extras
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
from diffaug.workspace import Workspace, dataset_name


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        about: What it does.
        options: What it may be asked: classes, or a class and the only fields that count.
        run: Called with an instance of each.
    """

    about: str
    options: tuple[type | tuple[type, str], ...]
    run: Callable[..., Any]


def _fit(task: Task, request: FitRequest, run: Run, how_far: PlanOnly) -> None:
    from diffaug.stages.pipeline import fit

    print(f"fit: {fit(task.workspace(), request, **vars(run), **vars(how_far))}")


def _sample(task: Task, request: SampleRequest, foreign: Foreign, run: Run) -> None:
    from diffaug.stages.pipeline import sample

    _take(task, foreign, run)
    folder = sample(task.workspace(), request, **vars(run))
    print(f"sample: {folder}, look at {folder / 'montage.png'}")


def _audit(task: MaybeTask, folders: Folders, extras: Extras, run: Run) -> None:
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


def _pretrain(
    task: Task,
    request: PretrainRequest,
    upstream: FitRequest,
    count: SampleRequest,
    foreign: Foreign,
    network: Network,
    run: Run,
) -> None:
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


def _export(task: Task, network: Network, export: Export) -> None:
    from diffaug.pretraining.sharing import export_encoder
    from diffaug.stages.travel import export_generator

    if export.out and not export.generator:
        print(f"export: {export_encoder(task.workspace(network.network), export.out)}")
    elif export.generator and not export.out:
        told = {"origin": export.origin, "licence": export.licence}
        print(f"export: {export_generator(task.workspace(), export.generator, **told)}")
    else:
        raise DiffaugError("export: expected --out FILE for the encoder, or --generator FILE; fix the options")


def _import(task: Task, network: Network, wanted: Import) -> None:
    from diffaug.pretraining.sharing import import_encoder
    from diffaug.stages.travel import import_generator

    if wanted.file and not wanted.generator:
        print(f"import: {import_encoder(task.workspace(network.network), wanted.file, fresh=wanted.fresh)}")
    elif wanted.generator and not wanted.file:
        print(f"import: {import_generator(task.workspace(), wanted.generator, fresh=wanted.fresh)}")
    else:
        raise DiffaugError("import: expected --file FILE, an encoder, or --generator FILE; fix the options")


def _share_model(wanted: ShareModel) -> None:
    from diffaug.pretraining.sharing import share_model

    print(f"share-model: {share_model(wanted.model, wanted.out)}")


def _plan(plan: Plan, network: Network) -> None:
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


def _phantom(wanted: Phantom) -> None:
    from diffaug.phantom.dataset import write_dataset

    print(f"phantom: {write_dataset(**vars(wanted))}")


def _trainer_path() -> None:
    from nnunet_plugin.trainer_path import trainer_path

    print(trainer_path())


def _doctor(task: MaybeTask, network: Network) -> None:
    from diffaug.doctor import examine

    examine(task.task or None, task.plans, task.configuration, network.network)


def _make_study(task: MaybeTask, request: MakeRequest, run: Run) -> None:
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


def _serve_study(request: ServeRequest) -> None:
    from diffaug.reader_study.serving import address, open_server

    with open_server(request) as server:
        print(f"reader-study serve: {address(server)}, answers go to {request.answers}; Ctrl-C ends", flush=True)
        server.serve_forever()


def _analyse_study(request: AnalyseRequest) -> None:
    from diffaug.reader_study.analysing import analyse

    print(f"reader-study analyse: {analyse(request)}")


def _demo(wanted: Demo) -> None:
    from diffaug.demo import demo

    demo(**vars(wanted))


VERBS = {
    "fit": Verb("fit the generator to a task's images", (Task, FitRequest, Run, PlanOnly), _fit),
    "sample": Verb("write synthetic volumes; fits first where needed", (Task, SampleRequest, Foreign, Run), _sample),
    "audit": Verb(
        "report how good and how private synthetic volumes are: a task's, or any folder's",
        (MaybeTask, Folders, Extras, Run),
        _audit,
    ),
    "pretrain": Verb(
        "pretrain the nnU-Net plan's network, or another; fits and samples first where needed",
        (Task, PretrainRequest, FitRequest, (SampleRequest, "count"), Foreign, Network, Run),
        _pretrain,
    ),
    "export": Verb(
        "copy the encoder file for nnU-Net's and nnssl's fine-tuning tools, or the generator for another hospital",
        (Task, Network, Export),
        _export,
    ),
    "import": Verb(
        "take an encoder of nnssl or another diffaug, or a generator, for a task", (Task, Network, Import), _import
    ),
    "share-model": Verb(
        "copy a trained model so that it predicts where diffaug is not installed", (ShareModel,), _share_model
    ),
    "plan": Verb(
        "add a budget's configuration to nnU-Net's plans, which are made where missing", (Plan, Network), _plan
    ),
    "phantom": Verb("write a dataset of breast MRI phantoms", (Phantom,), _phantom),
    "trainer-path": Verb("print the value for nnUNet_extTrainer", (), _trainer_path),
    "doctor": Verb(
        "check folders, packages, the trainer and, if named, a task, and say what to fix",
        (MaybeTask, Network),
        _doctor,
    ),
    "reader-study make": Verb(
        "write a page on which people grade real and synthetic volumes, not knowing which is which",
        (MaybeTask, MakeRequest, (Run, "fresh")),
        _make_study,
    ),
    "reader-study serve": Verb(
        "serve a study to this machine's browsers, and keep the answers on disk", (ServeRequest,), _serve_study
    ),
    "reader-study analyse": Verb("say what readers' answers come to", (AnalyseRequest,), _analyse_study),
    "demo": Verb("the whole road on phantoms, on a CPU, in minutes", (Demo,), _demo),
}
