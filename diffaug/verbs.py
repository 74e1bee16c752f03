"""The verbs: each is what it may be asked, in dataclasses, what it then calls, and an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffaug import verb_calls as calls
from diffaug.audit.requests import Extras
from diffaug.dicom.requests import ImportRequest
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


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        about: What it does.
        options: What it may be asked: classes, or a class and the only fields that count.
        run: Called with an instance of each.
        example: A line for a shell.
    """

    about: str
    options: tuple[type | tuple[type, str], ...]
    run: Callable[..., Any]
    example: str


VERBS = {
    "fit": Verb(
        "fit the generator to a task's images",
        (Task, FitRequest, Run, PlanOnly),
        calls.fit,
        "diffaug fit --task 101 --budget cpu-small --exclude labelled",
    ),
    "sample": Verb(
        "write synthetic volumes; fits first where needed",
        (Task, SampleRequest, Foreign, Run),
        calls.sample,
        "diffaug sample --task 101 -n 20",
    ),
    "audit": Verb(
        "report how good and how private synthetic volumes are: a task's, or any folder's",
        (MaybeTask, Folders, Extras, Run),
        calls.audit,
        "diffaug audit --task 101",
    ),
    "pretrain": Verb(
        "pretrain the nnU-Net plan's network, or another; fits and samples first where needed",
        (Task, PretrainRequest, FitRequest, (SampleRequest, "count"), Foreign, Network, Run),
        calls.pretrain,
        "diffaug pretrain --task 101 --budget cpu-small --images synthetic real --exclude labelled",
    ),
    "export": Verb(
        "copy the encoder file for nnU-Net's and nnssl's fine-tuning tools, or the generator for another hospital",
        (Task, Network, Export),
        calls.export,
        "diffaug export --task 101 --out encoder.pt",
    ),
    "import": Verb(
        "take an encoder of nnssl or another diffaug, or a generator, for a task",
        (Task, Network, Import),
        calls.import_,
        "diffaug import --task 101 --file encoder.pt --fresh",
    ),
    "share-model": Verb(
        "copy a trained model so that it predicts where diffaug is not installed",
        (ShareModel,),
        calls.share_model,
        "diffaug share-model --out for_others --model "
        "$nnUNet_results/Dataset101_BreastPhantomA/nnUNetTrainerDiffAug__nnUNetPlans__3d_fullres",
    ),
    "plan": Verb(
        "add a budget's configuration to nnU-Net's plans, which are made where missing",
        (Plan, Network),
        calls.plan,
        "diffaug plan --task 101 --budget cpu-small",
    ),
    "phantom": Verb(
        "write a dataset of breast MRI phantoms",
        (Phantom,),
        calls.phantom,
        "diffaug phantom --out $nnUNet_raw --task 101 --cases 12 --labelled 6 --shape 16 24 32",
    ),
    "trainer-path": Verb(
        "print the value for nnUNet_extTrainer",
        (),
        calls.trainer_path,
        'export nnUNet_extTrainer="$(diffaug trainer-path)"',
    ),
    "doctor": Verb(
        "check folders, packages, the trainer and, if named, a task, and say what to fix",
        (MaybeTask, Network),
        calls.doctor,
        "diffaug doctor --task 101",
    ),
    "import-dicom": Verb(
        "make nnU-Net cases of DICOM studies, under pseudonyms",
        (ImportRequest,),
        calls.import_dicom,
        "diffaug import-dicom studies --task Dataset102_Breast --series plane=axial",
    ),
    "reader-study make": Verb(
        "write a page on which people grade real and synthetic volumes, not knowing which is which",
        (MaybeTask, MakeRequest, (Run, "fresh")),
        calls.make_study,
        "diffaug reader-study make --task 101 --out study --real-count 6 --synthetic-count 6",
    ),
    "reader-study serve": Verb(
        "serve a study to this machine's browsers, and keep the answers on disk",
        (ServeRequest,),
        calls.serve_study,
        "diffaug reader-study serve --study study --answers answers",
    ),
    "reader-study analyse": Verb(
        "say what readers' answers come to",
        (AnalyseRequest,),
        calls.analyse_study,
        "diffaug reader-study analyse --key study_key.json --answers answers --out results",
    ),
    "demo": Verb(
        "the whole road on phantoms, on a CPU, in minutes",
        (Demo,),
        calls.demo,
        "diffaug demo --out diffaug_demo",
    ),
}
