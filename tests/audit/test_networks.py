"""Networks from files: the published formats load, features are the network's own, anything else is refused."""

import monai.networks.nets as nets
import pytest
import torch
from torch import nn

import diffaug.audit.networks as networks
from diffaug.audit.networks import load_network


def medicalnet(depth):
    torch.manual_seed(depth)
    kind = {"shortcut_type": "A" if depth in (18, 34) else "B", "bias_downsample": depth in (18, 34)}
    network = getattr(nets, f"resnet{depth}")(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, feed_forward=False, **kind
    )
    return network.eval()


def save_medicalnet(network, file):
    weights = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": weights}, file)
    return file


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(networks, "EDGE", 48)


@pytest.fixture(scope="module")
def radimagenet():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None).eval()


def save_backbone(network, file):
    """As RadImageNet publishes it: torchvision's ResNet without its head, in a Sequential called backbone."""
    holder = nn.Module()
    holder.backbone = nn.Sequential(*list(network.children())[:9])
    torch.save(holder.state_dict(), file)
    return file


def random_volumes(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("depth", "features"), [(10, 512), (18, 512), (34, 512), (50, 2048)])
def test_medicalnet_gives_the_networks_own_features(tmp_path, depth, features):
    network = medicalnet(depth)
    name, extract = load_network(save_medicalnet(network, tmp_path / "resnet.pth"))
    assert name.startswith(f"MedicalNet ResNet-{depth} (resnet.pth, sha256 ")
    volumes = random_volumes(2, 1, 9, 16, 12)
    scaled = (volumes - volumes.mean((2, 3, 4), keepdim=True)) / volumes.std((2, 3, 4), keepdim=True)
    with torch.no_grad():
        expected = network(scaled)
    assert extract(volumes).shape == (2, features)
    torch.testing.assert_close(extract(volumes), expected)


def test_medicalnet_does_not_see_units_and_sees_every_channel(tmp_path):
    _, extract = load_network(save_medicalnet(medicalnet(10), tmp_path / "resnet.pth"))
    volumes = random_volumes(1, 2, 16, 20, 18)
    found = extract(volumes)
    torch.testing.assert_close(extract(volumes * 0.3 + 0.2), found, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found, torch.cat([extract(volumes[:, :1]), extract(volumes[:, 1:])], 1))
    assert torch.isfinite(extract(torch.full((1, 1, 16, 16, 16), -1.0))).all()


def test_radimagenet_names_and_torchvision_names_are_one_network(tmp_path, radimagenet, small_slices):
    torch.save(radimagenet.state_dict(), tmp_path / "plain.pth")
    volumes = random_volumes(1, 1, 16, 20, 18)
    name, plain = load_network(tmp_path / "plain.pth")
    assert name.startswith("RadImageNet ResNet-50 (plain.pth")
    _, published = load_network(save_backbone(radimagenet, tmp_path / "backbone.pt"))
    found = plain(volumes)
    assert found.shape == (1, 3 * 2048)
    torch.testing.assert_close(published(volumes), found)


def test_slices_go_through_torchvisions_network_unchanged(tmp_path, radimagenet, small_slices):
    _, extract = load_network(save_backbone(radimagenet, tmp_path / "backbone.pt"))
    picture = random_volumes(1, 1, 1, 48, 48)
    found = extract(picture.expand(1, 1, 16, 48, 48))  # the same slice all along the first axis
    headless = nn.Sequential(*list(radimagenet.children())[:9], nn.Flatten())
    with torch.no_grad():
        expected = headless(picture[:, 0].expand(1, 3, 48, 48))
    torch.testing.assert_close(found[:, :2048], expected, rtol=1e-3, atol=1e-4)


def test_features_of_a_volume_do_not_depend_on_its_batch(tmp_path, radimagenet, small_slices):
    files = save_backbone(radimagenet, tmp_path / "a.pt"), save_medicalnet(medicalnet(10), tmp_path / "b.pth")
    volumes = random_volumes(2, 1, 9, 16, 12)
    for file in files:
        _, extract = load_network(file)
        torch.testing.assert_close(extract(volumes)[1:], extract(volumes[1:]), rtol=1e-3, atol=1e-4)


def test_whole_pickled_model_is_refused_unopened(tmp_path, refusal):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    message = refusal(load_network, tmp_path / "model.pth")
    assert "model.pth: cannot be read as plain weights" in message
    assert "state_dict()" in message


def test_other_files_are_refused_by_what_they_hold(tmp_path, refusal):
    contents = {
        "other.pth": nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=2).state_dict(),
        "flat.pth": nets.resnet18(spatial_dims=2, n_input_channels=3).state_dict(),
        "twochannels.pth": nets.resnet10(spatial_dims=3, n_input_channels=2).state_dict(),
        "numbers.pth": {"epoch": 3},
        "empty.pth": {},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        message = refusal(load_network, tmp_path / name)
        assert f"{name}: found " in message
        assert "expected the state dict of a MedicalNet" in message
    assert "(64, 3, 7, 7)" in refusal(load_network, tmp_path / "flat.pth")


def test_missing_tensor_is_named(tmp_path, refusal):
    network = medicalnet(10)
    weights = {"state_dict": {k: v for k, v in network.state_dict().items() if k != "layer3.0.bn2.weight"}}
    torch.save(weights, tmp_path / "torn.pth")
    assert "layer3.0.bn2.weight" in refusal(load_network, tmp_path / "torn.pth")


def test_missing_and_broken_files_are_refused(tmp_path, refusal):
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    for name in ("broken.pth", "absent.pth"):
        assert name in refusal(load_network, tmp_path / name)
