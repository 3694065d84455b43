"""Principal components beside torch's own decompositions."""

import pytest
import torch

from difflora_core.autoencoder import principal_components as principal


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(6, 20, generator=torch.Generator().manual_seed(0))


def test_scores_and_directions_are_the_singular_vectors(data):
    left, _, right = torch.linalg.svd(data, full_matrices=False)
    scores, directions = principal.principal_scores(data, 3), principal.principal_directions(data, 3)
    torch.testing.assert_close((scores.T @ left[:, :3]).abs(), torch.eye(3), rtol=0, atol=1e-4)
    torch.testing.assert_close((directions.T @ right[:3].T).abs(), torch.eye(3), rtol=0, atol=1e-4)


def test_directions_beyond_the_rank_are_orthonormal_and_scores_zero(data):
    data[3:] = data[:3]
    assert (principal.principal_scores(data, 5)[:, 3:] == 0).all()
    directions = principal.principal_directions(data, 5)
    torch.testing.assert_close(directions.T @ directions, torch.eye(5), rtol=0, atol=1e-4)


def test_a_gram_matrix_is_summed_over_slices(data, monkeypatch):
    monkeypatch.setattr(principal, "SLICE", 6 * 4)
    reads = []

    def read(start: int, stop: int) -> torch.Tensor:
        reads.append((start, stop))
        return data[:, start:stop]

    found = principal.gram(read, 2, 20, len(data))
    torch.testing.assert_close(found, (data[:, 2:] @ data[:, 2:].T).double(), rtol=1e-5, atol=1e-5)
    assert reads == [(2, 6), (6, 10), (10, 14), (14, 18), (18, 20)]
    with pytest.raises(ValueError, match="at least one weight, found the range 2 … 2"):
        principal.gram(read, 2, 2, len(data))


def test_neighboring_spans_are_read_together(data, monkeypatch):
    monkeypatch.setattr(principal, "SLICE", 6 * 10)
    spans = [(0, 5), (5, 10), (10, 14), (14, 20)]
    assert [list(run) for run in principal.runs(spans, 6)] == [[0, 1], [2, 3]]
    for position, x in principal.read_spans(lambda start, stop: data[:, start:stop], spans, 6):
        assert torch.equal(x, data[:, slice(*spans[position])])


def test_a_basis_has_columns_of_zeros_where_there_is_no_more(data):
    basis = principal.leading_basis(data.T[:4], 7)
    assert basis.shape == (4, 7)
    torch.testing.assert_close(basis[:, :4].T @ basis[:, :4], torch.eye(4), rtol=0, atol=1e-5)
    assert (basis[:, 4:] == 0).all()


def test_a_basis_is_orthonormal_beyond_the_components_and_begins_with_them(data):
    """Fewer LoRAs than channels: a column of zeros would never learn in a tied network."""
    loadings = data[:3].T
    basis = principal.leading_basis(loadings, 7)
    torch.testing.assert_close(basis.T @ basis, torch.eye(7), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis[:, :3] @ (basis[:, :3].T @ loadings), loadings, rtol=0, atol=1e-4)


def test_large_eigenproblems_give_the_same_directions(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(40, 3, generator=generator) @ torch.randn(3, 40, generator=generator)
    matrix = strong.T @ strong + 0.01 * torch.eye(40)
    exact = principal.leading_eigenvectors(matrix, 3)
    monkeypatch.setattr(principal, "MAX_EIGENPROBLEM_SIZE", 10)
    found = principal.leading_eigenvectors(matrix, 3)
    torch.testing.assert_close(found @ found.T, exact @ exact.T, rtol=0, atol=1e-5)
