"""Restyled training: what the weights file holds for it, what it changes in a batch, and what is refused."""

import pytest
import torch

from diffaug.errors import DiffaugError
from diffaug.nnunet.restyling import CODE, MAPS, Painter, Restyler
from diffaug.nnunet.weights.format import read_encoder


@pytest.fixture
def styles():
    torch.manual_seed(1)
    return {"painter": Painter(1).state_dict(), "codes": torch.randn(5, CODE)}


def restyler(nnunet, share):
    configuration = nnunet.trainer().configuration_manager.configuration
    return Restyler.read(read_encoder(nnunet.encoder), configuration, "plan", share, torch.device("cpu"))


def test_the_file_restores_network_and_painter(nnunet, styles):
    pretrained = nnunet.write_encoder(outputs=MAPS, styles=styles).eval()
    restored, volumes = restyler(nnunet, 1.0), torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(restored.network(volumes), pretrained(volumes))
        maps, codes = pretrained(volumes).softmax(1), styles["codes"][:2]
        painter = Painter(1)
        painter.load_state_dict(styles["painter"])
        assert torch.equal(restored.painter(maps, codes), painter(maps, codes))


def test_the_drawn_share_alone_is_painted(nnunet, styles):
    nnunet.write_encoder(outputs=MAPS, styles=styles)
    torch.manual_seed(0)
    volumes = torch.randn(200, 1, 8, 8, 8)
    before = volumes.clone()
    restyled = restyler(nnunet, 0.3)(volumes)
    changed = (restyled != before).flatten(1).any(1)
    assert 0.2 < float(changed.float().mean()) < 0.4
    assert torch.equal(volumes, before), "nnU-Net's own batch stays as it is"
    assert torch.equal(restyler(nnunet, 0.0)(volumes), volumes)


def test_a_bright_patch_is_painted_as_bright_as_scans_are(nnunet, styles):
    """The painter has learnt to paint scans' own values: brightness that was given back once more would count twice."""
    pretrained = nnunet.write_encoder(outputs=MAPS, styles=styles | {"codes": styles["codes"][:1]}).eval()
    patches = 3 + 0.5 * torch.randn(2, 1, 16, 16, 16)
    mean, spread = patches.mean((2, 3, 4), keepdim=True), patches.std((2, 3, 4), keepdim=True)
    painter = Painter(1)
    painter.load_state_dict(styles["painter"])
    with torch.no_grad():
        expected = painter(pretrained((patches - mean) / spread).softmax(1), styles["codes"][:1].expand(2, -1))
    torch.testing.assert_close(restyler(nnunet, 1.0)(patches), expected)


def test_a_training_restyles_and_resumes(nnunet, styles):
    nnunet.settings(restyle=0.5)
    nnunet.write_encoder(outputs=MAPS, styles=styles)
    trainer = nnunet.trainer()
    seen = []
    trainer.on_train_start()
    trainer.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0].clone()))
    trainer.restyler.share = 1.0
    batch = next(trainer.dataloader_train)
    assert float(trainer.train_step(batch)["loss"]) == pytest.approx(float(trainer.train_step(batch)["loss"]), abs=1)
    assert not torch.equal(seen[0], batch["data"]), "what the network sees is painted"
    trainer.save_checkpoint(trainer.output_folder + "/checkpoint_latest.pth")
    resumed = nnunet.trainer()
    resumed.load_checkpoint(trainer.output_folder + "/checkpoint_latest.pth")
    resumed.on_train_start()
    assert resumed.restyler is not None


def test_a_file_without_appearances_is_refused(nnunet, styles):
    nnunet.settings(restyle=0.5)
    nnunet.write_encoder()
    with pytest.raises(DiffaugError, match="holds no appearances, expected those of the pretext anatomy") as caught:
        nnunet.trainer().run_training()
    assert "\n" not in str(caught.value)


def test_nothing_but_weights_and_codes_is_kept(nnunet, styles):
    nnunet.write_encoder(outputs=MAPS, styles=styles)
    kept = read_encoder(nnunet.encoder).styles
    assert kept.keys() == {"head", "painter", "codes"}
    assert kept["codes"].shape == (5, CODE), "a dozen numbers a scan, and no name"
