"""What people read and send: one page, one compact file, a picture of the losses, and the ends of all logs."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.gpu.jobs import OK
from benchmarks.gpu.record import LINES, recorded
from benchmarks.measuring import table

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend comes first)

Lines = list[dict[str, Any]]
NETWORKS = ("autoencoder", "refiner", "denoiser")  # of a generator
VOLUMES = 200  # that `diffaug sample` makes unless told otherwise
LOG_END = 20_000  # characters of each job's output that are kept
NV_GENERATE = (
    "NV-Generate states 3 s and 15 GB for 256 x 256 x 128 voxels in 30 steps on an A100; that figure is theirs and was "
    "not measured here."
)


def write_report(out: Path, logs: Path, private: Sequence[str], minutes: float, *, smoke: bool) -> None:
    """Write `gpu.json`, `gpu.md`, `losses.png` and `logs.json.gz`, without any of this machine's paths.

    Args:
        out: The folder of results.
        logs: The jobs' output.
        private: Texts that must not leave this machine.
        minutes: What was asked for.
        smoke: Whether sizes were tiny.
    """
    hidden = re.compile("|".join(re.escape(text) for text in sorted(private, key=len, reverse=True) if len(text) > 1))
    lines = json.loads(hidden.sub("…", json.dumps(recorded(out), ensure_ascii=False)))
    about = next((line for line in lines if line["part"] == "where"), {})
    command = f"python -m benchmarks.gpu --minutes {minutes:g}{' --smoke' if smoke else ''} --out FOLDER"
    content = {"command": command, "about": about, "lines": [line for line in lines if line is not about]}
    (out / "gpu.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    sections = {
        "How each part ended": _ends,
        "One volume": _volumes,
        "Training": _training,
        "The same in another precision, and after a kill": _same,
        "A generator in minutes": _generator,
        "Few labels": _few_labels,
    }
    told = ", ".join(f"{key} {value}" for key, value in about.items() if key not in ("part", "load before"))
    head = [f"# GPU: {about.get('GPU', 'none, a CPU')}", f"`{command}`", told]
    if smoke:
        head.append("**Tiny sizes: these figures show that every part runs, and nothing else.**")
    parts = [part for title, write in sections.items() for part in (f"## {title}", _guarded(write, lines))]
    (out / "gpu.md").write_text("\n\n".join([*head, *parts]) + "\n")
    _draw_losses([line for line in lines if line["part"] == "precision"], out / "losses.png")
    ends = {file.stem: hidden.sub("…", file.read_text(errors="replace")[-LOG_END:]) for file in sorted(logs.glob("*"))}
    (out / "logs.json.gz").write_bytes(gzip.compress(json.dumps(ends).encode()))
    (out / LINES).unlink(missing_ok=True)  # all of it is in gpu.json


def _guarded(write: Callable[[Lines], str], lines: Lines) -> str:
    """Write a section: what cannot be shown must not cost the others, on a machine that is lent for minutes."""
    try:
        return write(lines) or "Nothing was measured."
    except Exception as error:
        return f"Could not be written ({type(error).__name__}: {error}); the figures are in gpu.json."


def _of(lines: Lines, part: str, *keys: str) -> Lines:
    return [line for line in lines if line["part"] == part and all(key in line for key in keys)]


def _rows(lines: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    rows = [{title: _text(line.get(key, "")) for title, key in columns.items()} for line in lines]
    return table(rows) if rows else ""


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " x ".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _ends(lines: Lines) -> str:
    jobs = _of(lines, "job")
    wrong = [job for job in jobs if job["status"] != OK]
    text = f"{len(jobs) - len(wrong)} of {len(jobs)} ended well."
    return "\n\n".join([text, _rows(wrong, {"part": "job", "what happened": "status", "s": "seconds"})]).strip()


def _volumes(lines: Lines) -> str:
    measured = _of(lines, "volume")
    for line in measured:
        if "seconds" in line:
            line["each"] = line["seconds"] / line["batch"]
    columns = {
        "plan of": "budget",
        "voxels": "shape",
        "volumes": "batch",
        "sampler": "sampler",
        "steps": "steps",
        "precision": "precision",
        "s a volume": "each",
        "s in all": "seconds",
        "of these decoding": "decoding_seconds",
        "GB": "allocated_gb",
        "GB held": "reserved_gb",
        "failed": "failed",
    }
    text = f"Untrained networks, for weights change nothing. {NV_GENERATE}"
    return "\n\n".join([text, _rows(measured, columns)]) if measured else ""


def _training(lines: Lines) -> str:
    measured = _of(lines, "training", "kind")
    columns = {
        "budget": "budget",
        "what is trained": "kind",
        "torch.compile": "compiled",
        "batch": "batch_size",
        "steps/s": "steps_per_second",
        "without loading": "without_loading",
        "share of loading": "loader_share",
        "loading processes": "workers",
        "examples/s a core": "examples_per_core_second",
        "s to compile": "compiling_seconds",
        "GB": "allocated_gb",
        "GB held": "reserved_gb",
        "failed": "failed",
    }
    if not measured:
        return ""
    plans = _rows(
        _of(lines, "training", "plans"), {"nnU-Net's plans": "plans", "patch": "patch_size", "batch": "batch_size"}
    )
    return "\n\n".join([plans, _rows(measured, columns), *_hours(lines)])


def _hours(lines: Lines) -> list[str]:
    """Extrapolate: steps of the budget over steps per second, and the default number of volumes."""
    # here, for the page must be written even where diffaug cannot be imported
    from diffaug.budgets import BUDGETS

    rates = {
        (line["budget"], line["kind"]): line["steps_per_second"]
        for line in _of(lines, "training", "steps_per_second")
        if not line["compiled"]
    }
    rows = []
    for budget in dict.fromkeys(budget for budget, _ in rates):
        fits = {kind: rate for (b, kind), rate in rates.items() if b == budget and kind in NETWORKS}
        pretraining = next((rate for (b, kind), rate in rates.items() if b == budget and "pretraining" in kind), None)
        sampled = [v for v in _of(lines, "volume", "seconds") if v["budget"] == budget]
        if not (len(fits) == len(NETWORKS) and pretraining and sampled):
            continue
        smallest = min(sampled, key=lambda line: (np.prod(line["shape"]), line["steps"], line["batch"]))
        seconds = {
            **{kind: getattr(BUDGETS[budget], f"{kind}_training").steps / rate for kind, rate in fits.items()},
            f"{VOLUMES} volumes": VOLUMES * smallest["seconds"] / smallest["batch"],
            "pretraining": BUDGETS[budget].pretraining.steps / pretraining,
        }
        seconds["all"] = sum(seconds.values())
        rows.append({"budget": budget, **{name: f"{value / 3600:.1f}" for name, value in seconds.items()}})
    if not rows:
        return []
    text = (
        "Hours of the road up to nnU-Net's own training, **extrapolated** from the steps above; reading, validation, "
        "calibration and nnU-Net's training are not in them:"
    )
    return [text, table(rows)]


def _same(lines: Lines) -> str:
    found = _of(lines, "precision", "losses")
    parts = []
    if found:
        rows = [
            {
                "network": line["kind"],
                "precision": line["precision"],
                "first loss": line["losses"][0],
                "mean of the last tenth": float(np.mean(finite[-max(1, len(finite) // 10) :])),
                "steps that were not finite": len(line["losses"]) - len(finite),
            }
            for line in found
            if (finite := [loss for loss in line["losses"] if loss is not None])
        ]
        parts += ["From one seed, the same examples (curves: losses.png):", table(rows)]
    pairs = _of(lines, "repeats", "pair")
    if pairs:
        parts += [
            "A small fit, unbroken, once more, killed with `kill -9` and resumed, and under `torchrun`: how far apart the "
            "generators' weights are. GPUs add up in any order, so that two unbroken fits say what is innocent.",
            _rows(pairs, {"pair": "pair", "equal": "equal", "relative difference": "relative_difference"}),
        ]
    return "\n\n".join(parts)


def _generator(lines: Lines) -> str:
    steps = next(iter(_of(lines, "generator", "steps")), None)
    if steps is None:
        return ""
    parts = [f"Budget {steps['budget']}, steps {steps['steps']}. Scans over synthetic volumes: volumes.png."]
    audit = next(iter(_of(lines, "audit", "verdicts")), None)
    if audit is not None:
        parts.append("The audit (audit.html): " + " ".join(text for _, text in audit["verdicts"].values()))
    return "\n\n".join(parts)


def _few_labels(lines: Lines) -> str:
    cells = _of(lines, "train", "dice")
    data = next((line["data"] for line in _of(lines, "data", "data")), "")
    if not cells:
        return ""
    rows = []
    for network, labelled in sorted({(cell["network"], cell["labelled"]) for cell in cells}):
        own = [cell for cell in cells if (cell["network"], cell["labelled"]) == (network, labelled)]
        scratch = {c["draw"]: c["dice"] for c in own if c["arm"] == "scratch"}
        for arm in dict.fromkeys(cell["arm"] for cell in own):
            found = {c["draw"]: c["dice"] for c in own if c["arm"] == arm}
            gains = [dice - scratch[draw] for draw, dice in found.items() if draw in scratch]
            rows.append(
                {
                    "network": network,
                    "labelled cases": labelled,
                    "start": arm,
                    "Dice": f"{np.mean(list(found.values())):.4f}" if found else "",
                    "minus scratch, same draws": ", ".join(f"{gain:+.4f}" for gain in gains)
                    if arm != "scratch"
                    else "",
                    "draws": len(found),
                }
            )
    first = next((cell for cell in cells if cell["arm"] != "scratch-long"), cells[0])
    text = (
        f"{data}: {first['steps']} steps of nnU-Net (scratch-long: those of the pretraining, too), {first['test_cases']} "
        "test cases, one Dice a draw."
    )
    return "\n\n".join([text, table(rows)])


def _draw_losses(lines: Lines, file: Path) -> None:
    kinds = list(dict.fromkeys(line["kind"] for line in lines))
    if not kinds:
        return
    figure, axes = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 3), squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds, strict=True):
        for line in lines:
            if line["kind"] == kind:
                axis.plot(
                    [np.nan if loss is None else loss for loss in line["losses"]], label=line["precision"], linewidth=1
                )
        axis.set(title=kind, xlabel="step", ylabel="loss")
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
