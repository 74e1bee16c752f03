"""Weights that leave or enter, in real nnU-Net: export, import, and models that predict without the plugin."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from diffaug.nnunet.weights.format import read_encoder
from diffaug.pretraining.sharing import export_encoder, import_encoder, share_model
from diffaug.stages.pipeline import pretrain
from diffaug.stages.requests import PretrainRequest
from diffaug.workspace import Workspace


def workspace(nnunet):
    return Workspace(nnunet.dataset, configuration=nnunet.configuration)


def test_exported_file_has_the_weights_and_no_case_id(nnunet, tmp_path):
    nnunet.write_encoder()
    out = export_encoder(workspace(nnunet), tmp_path / "shared.pt")
    mine, theirs = read_encoder(nnunet.encoder), read_encoder(out)
    assert mine.weights.keys() == {name for name in theirs.weights if not name.startswith("decoder.encoder.")}
    assert all(torch.equal(mine.weights[name], theirs.weights[name]) for name in mine.weights)
    assert theirs.provenance["case_ids"] == 3
    assert theirs.adaptation_plan["architecture_kwargs"]["n_stages"] == 3
    for case in nnunet.cases:
        assert case.encode() not in out.read_bytes()


@pytest.mark.parametrize("outputs", [1, 4], ids=["as many outputs", "other outputs"])
def test_exported_file_is_taken_by_stock_nnunets_pretrained_weights(nnunet, tmp_path, outputs):
    network = nnunet.write_encoder(outputs=outputs)
    out = export_encoder(workspace(nnunet), tmp_path / "shared.pt")
    trainer = nnunet.trainer("nnUNetTrainer")
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(out))
    loaded, expected = trainer.network.state_dict(), network.state_dict()
    for name in expected:
        assert ".seg_layers." in name or torch.equal(loaded[name], expected[name]), name


def test_export_overwrites_nothing(nnunet, tmp_path, refusal):
    nnunet.write_encoder()
    (tmp_path / "shared.pt").write_text("mine")
    assert "another --out" in refusal(export_encoder, workspace(nnunet), tmp_path / "shared.pt")


def test_imported_encoder_starts_a_training(nnunet, tmp_path):
    network = nnunet.write_encoder(path=tmp_path / "foreign.pt")
    import_encoder(workspace(nnunet), tmp_path / "foreign.pt")
    nnunet.settings(load="encoder")
    trainer = nnunet.trainer()
    trainer.on_train_start()
    stem = network.keys_to_in_proj[0] + ".weight"
    assert torch.equal(trainer.network.state_dict()[stem], network.state_dict()[stem])


def test_exported_and_imported_encoder_starts_a_training_that_says_it_knows_no_case(nnunet, tmp_path):
    nnunet.write_encoder()
    export_encoder(workspace(nnunet), tmp_path / "shared.pt")
    import_encoder(workspace(nnunet), tmp_path / "shared.pt", fresh=True)
    nnunet.settings(load="encoder")
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert "does not say which cases it has seen" in Path(trainer.log_file).read_text()


def test_import_refuses_another_architecture_and_an_encoder_that_is_there(nnunet, tmp_path, refusal):
    nnunet.write_encoder(path=tmp_path / "other.pt", features_per_stage=[4, 8, 32])
    assert "features_per_stage" in refusal(import_encoder, workspace(nnunet), tmp_path / "other.pt")
    assert not nnunet.encoder.exists()
    nnunet.write_encoder(path=tmp_path / "good.pt")
    import_encoder(workspace(nnunet), tmp_path / "good.pt")
    assert "--fresh" in refusal(import_encoder, workspace(nnunet), tmp_path / "good.pt")
    import_encoder(workspace(nnunet), tmp_path / "good.pt", fresh=True)


def test_imported_encoder_is_not_taken_for_a_pretrained_one(nnunet, tmp_path, refusal):
    nnunet.write_encoder(path=tmp_path / "good.pt")
    nnunet.encoder.parent.mkdir(parents=True)
    request = PretrainRequest(images=("real",), budget="cpu-small", exclude=("none",))
    (nnunet.encoder.parent / "manifest.json").write_text(json.dumps({"request": asdict(request)}))
    nnunet.write_encoder()
    import_encoder(workspace(nnunet), tmp_path / "good.pt", fresh=True)
    before = nnunet.encoder.read_bytes()
    assert "was imported" in refusal(pretrain, workspace(nnunet), request, device="cpu")
    assert nnunet.encoder.read_bytes() == before


def test_foreign_encoder_without_provenance_is_exported(nnunet, tmp_path):
    nnunet.write_encoder(path=tmp_path / "foreign.pt")
    content = torch.load(tmp_path / "foreign.pt", weights_only=True)
    del content["diffaug"]
    torch.save(content, tmp_path / "foreign.pt")
    import_encoder(workspace(nnunet), tmp_path / "foreign.pt")
    assert read_encoder(export_encoder(workspace(nnunet), tmp_path / "shared.pt")).provenance == {}


def test_shared_model_predicts_the_same_without_the_plugin_and_names_no_case(nnunet, tmp_path, monkeypatch):
    info = nnunet.preprocessed / nnunet.dataset / "dataset.json"
    files = {case: {"images": [f"ward/{case}.nii.gz"], "label": f"ward/{case}_seg.nii.gz"} for case in nnunet.cases}
    info.write_text(json.dumps(json.loads(info.read_text()) | {"dataset": files}))
    nnunet.settings(encoder_file="/home/somebody/encoder.pt")
    trainer = nnunet.trainer("nnUNetTrainerDiffAugScratch")
    trainer.run_training()
    folder = nnunet.results / nnunet.dataset / f"nnUNetTrainerDiffAugScratch__nnUNetPlans__{nnunet.configuration}"
    before = (folder / "fold_0" / "checkpoint_final.pth").read_bytes()
    shared = share_model(folder, tmp_path / "shared")
    assert shared.name == f"nnUNetTrainer__nnUNetPlans__{nnunet.configuration}"
    assert (folder / "fold_0" / "checkpoint_final.pth").read_bytes() == before, "the training's own files stay"
    ids = [case.encode() for case in [*nnunet.cases, "somebody"]]
    assert ids[-1] in (folder / "plans.json").read_bytes()
    assert ids[0] in before and ids[0] in (folder / "dataset.json").read_bytes(), "what is not shared tells"
    for file in shared.rglob("*"):
        assert file.is_dir() or not any(case in file.read_bytes() for case in ids), file
    patch = torch.randn(1, 20, 20, 20, generator=torch.Generator().manual_seed(0))

    def predict(model):
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0,))
        return predictor.predict_logits_from_preprocessed_data(patch)

    expected = predict(folder)
    monkeypatch.delenv("nnUNet_extTrainer")
    assert torch.equal(predict(shared), expected)
    with pytest.raises(RuntimeError):
        predict(folder)


def test_unfinished_model_is_not_shared(nnunet, tmp_path, refusal):
    folder = tmp_path / "A__B__C"
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps({}))
    assert "0 finished folds" in refusal(share_model, folder, tmp_path / "shared")
