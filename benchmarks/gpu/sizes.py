"""How large the parts are: on a GPU as users have it, and as small as a CPU can try them."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, int, int]
HEARTS = ("Dataset910_HeartVendorA", "Dataset911_HeartVendorB")  # real scans for parts 5 and 6, where they are at hand
WAYS = ("unbroken", "again", "killed", "torchrun")  # in which a small generator is fitted, to compare its weights
ARMS = ("scratch", "scratch-long", "real", "synthetic")  # what they start from


@dataclass(frozen=True)
class Sizes:
    """What the parts measure.

    Attributes:
        budgets: diffaug's budgets, the one most users have first.
        volumes: Voxels (Z, Y, X) of the volumes that are sampled.
        batch: Volumes sampled together, beside single ones.
        samplers: Samplers and their steps, the default first.
        scan: Voxels (Z, Y, X), 1 mm each, of the scans that training steps are measured on.
        planners: nnU-Net's plans whose `3d_fullres` networks are pretrained.
        compiled: Whether training steps are measured with `torch.compile`, too.
        step_seconds: How long each kind of training step is measured.
        equal_steps: Steps that are compared between precisions.
        kill_steps: Steps of the fits that are killed and repeated.
        phantom: Voxels (Z, Y, X) of phantoms, where real scans are not at hand.
        pool: Number of unlabelled phantoms.
        labelled: Number of phantoms to draw labelled ones from.
        test: Number of phantoms that judge.
        generator_budget: Of the generator that is fitted in earnest.
        samples: Volumes that it makes.
        pretext_steps: Of the pretraining on its volumes, and on the scans it was fitted to.
        networks: Those of the few-label trainings.
        epochs: Length of the few-label trainings, in twenties of steps.
        counts: Numbers of labelled cases.
        draws: Draws of labelled cases, as many as time allows.
    """

    budgets: tuple[str, ...] = ("gpu-24g", "gpu-80g")
    volumes: tuple[Shape, ...] = ((128, 256, 256), (128, 128, 128))
    batch: int = 4
    samplers: tuple[tuple[str, int], ...] = (("dpmpp", 16), ("ddpm", 300))
    scan: Shape = (160, 256, 256)
    planners: tuple[str, ...] = ("nnUNetPlans", "nnUNetResEncUNetLPlans")
    compiled: bool = True
    step_seconds: float = 3.0
    equal_steps: int = 200
    kill_steps: int = 200
    phantom: Shape = (24, 32, 48)
    pool: int = 150
    labelled: int = 30
    test: int = 30
    generator_budget: str = "gpu-24g"
    samples: int = 64
    pretext_steps: int = 2000
    networks: tuple[str, ...] = ("PrimusS", "plan")
    epochs: int = 200
    counts: tuple[int, ...] = (4, 10)
    draws: int = 5


FULL = Sizes()
SMOKE = Sizes(
    budgets=("cpu-small",),
    volumes=((16, 32, 32), (16, 16, 16)),
    batch=2,
    samplers=(("dpmpp", 4), ("ddpm", 6)),
    scan=(32, 40, 36),
    planners=("nnUNetPlans",),
    compiled=False,  # takes a CPU minutes
    step_seconds=0.2,
    equal_steps=4,
    kill_steps=20,
    phantom=(16, 16, 16),
    pool=12,
    labelled=12,
    test=2,
    generator_budget="cpu-small",
    samples=8,
    pretext_steps=4,
    networks=("PrimusS",),
    epochs=1,
    counts=(2,),
    draws=1,
)
