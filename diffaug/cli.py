"""The doors: one small function per verb, no logic of its own."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffaug import __version__
from diffaug.budgets import BUDGETS, DEFAULT
from diffaug.errors import DiffaugError
from diffaug.generator.samplers import SAMPLERS

# Before torch is loaded: waiting threads sleep instead of spinning. On a machine that does anything else at the same
# time, spinning ones make every step several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffaug`.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        0, or 2 for something the user can mend, or 130 after Ctrl-C.
    """
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except Exception as error:
        message = _one_line(error)
        if message is None or arguments.debug:
            raise
        print(f"diffaug: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffaug: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _one_line(error: Exception) -> str | None:
    """Tell in one line what the user can mend, or None for a fault of the program."""
    if isinstance(error, DiffaugError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'a temporary file'}: the disk is full; free space and run the same command again"
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU's memory is full ({error}); choose a smaller --budget, or smaller numbers in plan.json"
    return None


def build_parser() -> argparse.ArgumentParser:
    """Describe all verbs and their options.

    Returns:
        The parser; each verb sets `run`.
    """
    parser = argparse.ArgumentParser(
        prog="diffaug",
        description="Unlabelled scans in, a pretrained nnU-Net out. Every verb goes on where it stopped.",
    )
    parser.add_argument("--version", action="version", version=f"diffaug {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[Arguments], Any], text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        made.set_defaults(run=run)
        return made

    made = verb("fit", _fit, "fit the generator to a task's images")
    _add_task(made)
    _add_fit(made)
    _add_run(made)
    made.add_argument("--plan-only", action="store_true", help="write plan.json for you to edit, and stop")

    made = verb("sample", _sample, "write synthetic volumes; fits first where needed")
    _add_task(made)
    made.add_argument("-n", "--count", type=int, default=200, help="number of volumes (%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="same seed, same files (%(default)s)")
    ways = "; ".join(f"{name}: {sampler.about}" for name, sampler in SAMPLERS.items())
    made.add_argument("--sampler", default="dpmpp", help=f"{ways} (%(default)s)")
    own = ", ".join(f"{name} {sampler.steps}" for name, sampler in SAMPLERS.items())
    made.add_argument("--steps", type=int, help=f"sampler steps ({own})")
    made.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what all volumes shall be like: site=NAME or spacing=Z,Y,X in mm; may be repeated (as the scans are)",
    )
    made.add_argument("--guidance", type=float, default=1.0, help="above 1 exaggerates the conditions (%(default)s)")
    made.add_argument(
        "--no-grain",
        dest="grain",
        action="store_false",
        help="leave volumes as smooth as the autoencoder makes them, instead of adding the grain of scans",
    )
    made.add_argument(
        "--keep-copies", action="store_true", help="for research: keep volumes that are too like a training scan"
    )
    _add_run(made)

    made = verb("audit", _audit, "report how good and how private synthetic volumes are: a task's, or any folder's")
    _add_task(made, required=False)
    made.add_argument("--real", type=Path, metavar="FOLDER", help="scans that any generator was trained on")
    made.add_argument("--synthetic", type=Path, metavar="FOLDER", help="the volumes it made")
    made.add_argument("--unseen", type=Path, metavar="FOLDER", help="real scans it never saw (a part of --real)")
    made.add_argument("--out", type=Path, help="where to, with --real (diffaug_audit)")
    made.add_argument(
        "--weights",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="MedicalNet's or RadImageNet's weights",
    )
    made.add_argument("--nnunet-model", type=Path, metavar="FOLDER", help="trained nnU-Net model, to look at organs")
    _add_run(made)

    made = verb("pretrain", _pretrain, "pretrain the nnU-Net plan's network; fits and samples first where needed")
    _add_task(made)
    _add_fit(made)
    _add_images(made)
    _add_network(made)
    made.add_argument(
        "--pretext", default="denoise", help="denoise, mae or, with the generator as teacher, clusters (%(default)s)"
    )
    made.add_argument("--pretext-steps", type=int, help="length of the pretraining (the budget's own)")
    made.add_argument(
        "-n", "--count", type=int, default=200, help="volumes to sample, if that is missing (%(default)s)"
    )
    _add_run(made)

    made = verb(
        "export", _export, "copy the encoder file, without case ids, for nnU-Net's and nnssl's fine-tuning tools"
    )
    _add_task(made)
    _add_network(made)
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="the copy")

    made = verb("import", _import, "take an encoder file of nnssl, or of another diffaug, for a task's network")
    _add_task(made)
    _add_network(made)
    made.add_argument("--file", type=Path, required=True, help="the encoder file")
    made.add_argument("--fresh", action="store_true", help="discard an encoder that is there")

    made = verb("share-model", _share_model, "copy a trained model so that it predicts where diffaug is not installed")
    made.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="TRAINER__PLANS__CONFIGURATION")
    made.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to, as nnUNet_results has it")

    made = verb("plan", _plan, "add a budget's configuration to nnU-Net's plans, which are made where missing")
    made.add_argument("--task", required=True, help="as nnU-Net's -d: 101 or Dataset101_Name")
    made.add_argument("--plans", default="nnUNetPlans", help="nnU-Net's plans (%(default)s)")
    made.add_argument("--base", default="3d_fullres", help="configuration to inherit from (%(default)s)")
    made.add_argument("--budget", choices=BUDGETS, default=DEFAULT, help="(%(default)s)")
    lengths = ", ".join(f"{name} {budget.nnunet['epochs']}" for name, budget in BUDGETS.items())
    made.add_argument("--epochs", type=int, help=f"length of nnU-Net's training ({lengths})")
    _add_network(made)
    made.add_argument("--exclude", action="append", metavar="RULE", help="cases that the plans must not be made from")

    made = verb("phantom", _phantom, "write a dataset of breast MRI phantoms")
    made.add_argument("--out", type=Path, required=True, help="folder of raw datasets, usually $nnUNet_raw")
    made.add_argument("--task", type=int, required=True, help="number of the dataset")
    made.add_argument("--cases", type=int, required=True, help="number of training cases")
    made.add_argument("--labelled", type=int, help="how many of them have masks (all)")
    made.add_argument("--test", type=int, default=0, help="further cases for imagesTs and labelsTs (%(default)s)")
    made.add_argument("--site", choices=("A", "B"), default="A", help="scanner (%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    made.add_argument("--shape", type=int, nargs=3, default=(32, 48, 64), metavar=("Z", "Y", "X"), help="voxels")

    verb("trainer-path", _trainer_path, "print the value for nnUNet_extTrainer")
    made = verb("doctor", _doctor, "check folders, packages, the trainer and, if named, a task, and say what to mend")
    _add_task(made, required=False)
    made = verb("demo", _demo, "the whole road on phantoms, on a CPU, in minutes")
    made.add_argument("--out", type=Path, default=Path("diffaug_demo"), help="where to (%(default)s)")
    return parser


def _add_task(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--task", required=required, help="as nnU-Net's -d: 101 or Dataset101_Name")
    parser.add_argument("--plans", default="nnUNetPlans", help="nnU-Net's plans (%(default)s)")
    parser.add_argument("--configuration", default="3d_fullres", help="nnU-Net's configuration (%(default)s)")


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--network",
        default="plan",
        help="plan, or one that a trainer of its name brings along: PrimusS, PrimusB, PrimusM, PrimusL, PrimusV3S or "
        "SwinUNETR (%(default)s)",
    )


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", choices=BUDGETS, default=DEFAULT, help="the machine at hand (%(default)s)")
    parser.add_argument("--field-of-view", default="auto", help="whole, patch or auto (%(default)s)")
    parser.add_argument(
        "--more-images", action="append", default=[], metavar="FOLDER", help="further unlabelled images"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        metavar="RULE",
        help="cases that must not be seen: fold:N, labelled, FILE[:KEY] or none; may be repeated (fold:0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--sites", metavar="FILE", help="table with the columns case and site (the dataset's sites.csv, if it is there)"
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", nargs="+", default=["synthetic"], help="any of: synthetic, real, a FOLDER (synthetic)"
    )


def _images(arguments: Arguments) -> tuple[str, ...]:
    from diffaug.pretraining.sources import KINDS

    return tuple(name if name in KINDS else str(Path(name).resolve()) for name in arguments.images)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="discard what this verb has made before")


def _workspace(arguments: Arguments) -> Any:
    from diffaug.workspace import PLAN, Workspace, dataset_name

    network = getattr(arguments, "network", PLAN)  # what has no such option makes nothing that differs by network
    return Workspace(dataset_name(arguments.task), arguments.plans, arguments.configuration, network)


def _fit_request(arguments: Arguments) -> Any:
    from diffaug.stages.requests import FitRequest

    return FitRequest(
        budget=arguments.budget,
        field_of_view=arguments.field_of_view,
        images=tuple(str(Path(folder).resolve()) for folder in arguments.more_images),
        exclude=tuple(arguments.exclude or ("fold:0",)),
        seed=arguments.seed,
        sites=str(Path(arguments.sites).resolve()) if arguments.sites else None,
    )


def _fit(arguments: Arguments) -> None:
    from diffaug.stages.pipeline import fit

    workspace, request = _workspace(arguments), _fit_request(arguments)
    made = fit(workspace, request, device=arguments.device, fresh=arguments.fresh, plan_only=arguments.plan_only)
    print(f"fit: {made}")


def _sample(arguments: Arguments) -> None:
    from diffaug.generator.conditions import Condition
    from diffaug.stages.pipeline import sample
    from diffaug.stages.requests import SampleRequest

    request = SampleRequest(
        arguments.count,
        arguments.seed,
        arguments.sampler,
        arguments.steps,
        Condition.parse(arguments.condition),
        arguments.guidance,
        arguments.grain,
        arguments.keep_copies,
    )
    folder = sample(_workspace(arguments), request, device=arguments.device, fresh=arguments.fresh)
    print(f"sample: {folder}, look at {folder / 'montage.png'}")


def _audit(arguments: Arguments) -> None:
    from diffaug.audit.folders import FoldersRequest
    from diffaug.audit.measuring import Extras
    from diffaug.stages.pipeline import audit, audit_folders

    extras = Extras(tuple(arguments.weights), arguments.nnunet_model)
    run = {"device": arguments.device, "fresh": arguments.fresh}
    folders = (arguments.real, arguments.synthetic)
    if arguments.task and not any((*folders, arguments.unseen, arguments.out)):
        report = audit(_workspace(arguments), extras, **run)
    elif all(folders) and not arguments.task:
        request = FoldersRequest(*folders, unseen=arguments.unseen)
        report = audit_folders(request, arguments.out or Path("diffaug_audit"), extras, **run)
    else:
        raise DiffaugError("audit: expected --task, or --real and --synthetic and no --task; mend the options")
    print(f"audit: {report}")


def _pretrain(arguments: Arguments) -> None:
    from diffaug.stages.pipeline import pretrain
    from diffaug.stages.requests import PretrainRequest, SampleRequest

    request = PretrainRequest(
        images=_images(arguments),
        pretext=arguments.pretext,
        budget=arguments.budget,
        exclude=tuple(arguments.exclude or ("fold:0",)),
        more_images=_fit_request(arguments).images,
        seed=arguments.seed,
        steps=arguments.pretext_steps,
    )
    upstream = (_fit_request(arguments), SampleRequest(arguments.count))
    made = pretrain(_workspace(arguments), request, upstream=upstream, device=arguments.device, fresh=arguments.fresh)
    print(f"pretrain: {made}")


def _export(arguments: Arguments) -> None:
    from diffaug.pretraining.sharing import export_encoder

    print(f"export: {export_encoder(_workspace(arguments), arguments.out)}")


def _import(arguments: Arguments) -> None:
    from diffaug.pretraining.sharing import import_encoder

    print(f"import: {import_encoder(_workspace(arguments), arguments.file, fresh=arguments.fresh)}")


def _share_model(arguments: Arguments) -> None:
    from diffaug.pretraining.sharing import share_model

    print(f"share-model: {share_model(arguments.model, arguments.out)}")


def _plan(arguments: Arguments) -> None:
    from diffaug.nnunet.budget_configurations import add_budget_configuration, ensure_plans
    from diffaug.scans.exclusion import excluded_ids
    from diffaug.workspace import Workspace, dataset_name

    workspace = Workspace(dataset_name(arguments.task), arguments.plans, arguments.base)
    excluded = excluded_ids(workspace, arguments.exclude or ())
    plans_file = ensure_plans(workspace.dataset, arguments.plans, excluded)
    name = add_budget_configuration(
        plans_file,
        budget=arguments.budget,
        base=arguments.base,
        epochs=arguments.epochs,
        network=arguments.network,
    )
    print(f"plan: {plans_file}, configuration {name}")


def _phantom(arguments: Arguments) -> None:
    from diffaug.phantom.dataset import write_dataset

    folder = write_dataset(
        arguments.out,
        task=arguments.task,
        cases=arguments.cases,
        labelled=arguments.labelled,
        test=arguments.test,
        site=arguments.site,
        seed=arguments.seed,
        shape=tuple(arguments.shape),
    )
    print(f"phantom: {folder}")


def _trainer_path(arguments: Arguments) -> None:
    from nnunet_plugin.trainer_path import trainer_path

    print(trainer_path())


def _doctor(arguments: Arguments) -> None:
    from diffaug.doctor import examine

    examine(arguments.task, arguments.plans, arguments.configuration)


def _demo(arguments: Arguments) -> None:
    from diffaug.demo import demo

    demo(arguments.out)
