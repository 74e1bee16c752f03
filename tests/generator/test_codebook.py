"""The codebook: nearest is nearest, its state is whole, no code stays dead."""

import pytest
import torch

from diffaug.generator import codebook as module
from diffaug.generator.codebook import Codebook


@pytest.fixture
def book():
    torch.manual_seed(0)
    made = Codebook(64, 4)
    made.codes.normal_()
    made.sums.copy_(made.codes)
    made.filled.fill_(True)
    return made


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_nearest_is_brute_force_nearest_in_any_precision(precision):
    torch.manual_seed(0)
    made = Codebook(2048, 8)
    made.codes.normal_()
    vectors = torch.randn(1, 3000, 8)
    truth = torch.cdist(vectors.double(), made.codes.double()).argmin(2)
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        found = made.nearest(vectors)
    assert float((found == truth).float().mean()) > 0.999, "but for ties within rounding"


def test_chunks_change_nothing(book, monkeypatch):
    vectors = torch.randn(1, 1000, 4)
    whole = book.nearest(vectors)
    for size in (1, 7, 999, 5000):
        monkeypatch.setattr(module, "CHUNK", size)
        assert torch.equal(book.nearest(vectors), whole)


def test_codes_quantise_to_themselves_at_every_place(book):
    latent = book.codes[0, torch.randint(64, (2, 3, 4, 5))].movedim(-1, 1)
    assert torch.equal(book.quantise(latent), latent)
    assert book.quantise(torch.randn(2, 4, 3, 4, 5)).shape == (2, 4, 3, 4, 5)


def test_training_and_use_quantise_alike(book):
    latent = torch.randn(2, 4, 3, 4, 5)
    quantised, _, _ = book.eval()(latent)
    torch.testing.assert_close(quantised, book.quantise(latent))


def test_using_it_moves_nothing(book):
    before = {k: v.clone() for k, v in book.state_dict().items()}
    book.eval()(torch.randn(1, 4, 4, 4, 4))
    assert all(torch.equal(v, before[k]) for k, v in book.state_dict().items())


def test_first_batch_fills_it_and_a_restored_one_is_never_filled_again():
    torch.manual_seed(0)
    made = Codebook(16, 4)
    latent = torch.randn(2, 4, 4, 4, 4) + 5
    made(latent)
    assert made.filled
    assert (made.codes.mean() - 5).abs() < 1, "codes are drawn from the data"
    restored = Codebook(16, 4)
    restored.load_state_dict(made.state_dict())
    far = torch.randn(2, 4, 4, 4, 4) - 100
    torch.manual_seed(1)
    *a, seen = made(far)
    torch.manual_seed(1)
    *b, seen_again = restored(far)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert seen == seen_again
    assert all(torch.equal(made.state_dict()[k], v) for k, v in restored.state_dict().items())


def test_dead_codes_are_restarted_from_the_data(book):
    book.codes[:, :32] = 1000  # where no latent will ever be
    book.sums.copy_(book.codes)
    torch.manual_seed(1)
    for _ in range(600):
        perplexity = book(torch.randn(4, 4, 4, 4, 4))[2]["perplexity"]
    assert book.codes.abs().max() < 10
    assert perplexity > 40, "of 64 codes"


def test_codes_move_to_the_mean_of_their_vectors():
    made = Codebook(2, 1)
    made.codes.copy_(torch.tensor([[[-1.0], [1.0]]]))
    made.sums.copy_(made.codes)
    made.filled.fill_(True)
    latent = torch.tensor([-3.0, -3.0, 2.0, 2.0]).view(1, 1, 4, 1, 1)
    for _ in range(1000):
        made(latent)
    torch.testing.assert_close(made.codes, torch.tensor([[[-3.0], [2.0]]]), atol=1e-3, rtol=0)


def test_perplexity_counts_the_codes_in_use(book):
    def perplexity(indices):
        return float(book.eval()(book.codes[0, indices].T.reshape(1, 4, -1, 1, 1))[2]["perplexity"])

    assert perplexity(torch.arange(64)) == pytest.approx(64, rel=1e-4)
    assert perplexity(torch.arange(8).repeat(5)) == pytest.approx(8, rel=1e-4)
    assert perplexity(torch.zeros(9, dtype=torch.long)) == pytest.approx(1)


def test_gradient_goes_straight_through_and_commitment_pulls_to_the_code(book):
    latent = torch.randn(1, 4, 2, 2, 2, requires_grad=True)
    weight = torch.randn(1, 4, 2, 2, 2)
    quantised, commitment, _ = book(latent)
    (straight,) = torch.autograd.grad((quantised * weight).sum(), latent, retain_graph=True)
    torch.testing.assert_close(straight, weight)
    (pull,) = torch.autograd.grad(commitment, latent)
    torch.testing.assert_close(pull, 0.5 * (latent - quantised).detach() / latent.numel(), atol=1e-6, rtol=1e-4)
    assert not any(buffer.requires_grad for buffer in book.buffers())


def test_groups_are_codebooks_side_by_side():
    torch.manual_seed(0)
    both = Codebook(32, 6, groups=2)
    both.codes.normal_()
    latent = torch.randn(2, 6, 3, 4, 5)
    made = both.quantise(latent)
    for group in range(2):
        alone = Codebook(32, 3)
        alone.codes.copy_(both.codes[group : group + 1])
        assert torch.equal(made[:, group::2], alone.quantise(latent[:, group::2]))
    assert torch.equal(both.indices(latent)[1], alone.indices(latent[:, 1::2])[0])


def test_groups_lose_less_than_one_codebook_of_as_many_numbers():
    torch.manual_seed(0)
    latents = [torch.randn(2, 4, 8, 8, 8) for _ in range(60)]
    one, two = Codebook(64, 4), Codebook(64, 4, groups=2)
    lost = []
    for book in (one, two):
        for latent in latents:
            book(latent)
        lost.append(float((book.quantise(latents[0]) - latents[0]).square().mean()))
    assert lost[1] < 0.5 * lost[0]


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="5 latent channels do not divide into 2 groups"):
        Codebook(8, 5, groups=2)
