"""Muon: momentum whose matrices are orthogonalised before they are applied; two to three times fewer steps than AdamW here."""

from __future__ import annotations

from collections.abc import Iterable

import torch

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients that push every singular value to about 1


def orthogonalized(matrices: torch.Tensor, iterations: int) -> torch.Tensor:
    """U V^T of matrices (..., m, n) = U S V^T, approximately: singular values end in about [0.7, 1.2]."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for weights of two and more dimensions (kernels as matrices, outputs x the rest), AdamW for the others.

    A matrix moves by lr * scale * sqrt(max(1, m / n)) along the orthogonalised Nesterov momentum; vectors take AdamW's
    step with `lr` itself. One learning rate therefore schedules both.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        *,
        scale: float = 14.0,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        iterations: int = 4,
    ) -> None:
        kept = list(parameters)
        matrices = [p for p in kept if p.ndim >= 2]
        vectors = [p for p in kept if p.ndim < 2]
        groups = [{"params": g, "matrices": m} for g, m in ((matrices, True), (vectors, False)) if g]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "matrices": True})
        self.scale, self.momentum, self.betas, self.iterations = scale, momentum, betas, iterations

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # it takes no closure
        """One step from the gradients at hand; parameters without one stay."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if moved:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
                (self._matrices if group["matrices"] else self._vectors)(moved, group["lr"])

    def _matrices(self, moved: list[torch.Tensor], lr: float) -> None:
        grads = [p.grad for p in moved if p.grad is not None]
        momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in moved]
        torch._foreach_mul_(momenta, self.momentum)
        torch._foreach_add_(momenta, grads)
        directions = torch._foreach_add(grads, momenta, alpha=self.momentum)
        alike: dict[tuple[int, int], list[int]] = {}  # matrices of one shape are orthogonalised together
        for k, d in enumerate(directions):
            alike.setdefault((d.shape[0], d[0].numel()), []).append(k)
        for (m, n), rows in alike.items():
            stack = torch.stack([directions[k].reshape(m, n) for k in rows])
            steps = orthogonalized(stack, self.iterations).mul_(-lr * self.scale * max(1.0, m / n) ** 0.5)
            torch._foreach_add_(
                [moved[k] for k in rows],
                [s.reshape(moved[k].shape) for s, k in zip(steps, rows, strict=True)],
            )

    def _vectors(self, moved: list[torch.Tensor], lr: float) -> None:
        for p in moved:
            if not self.state[p]:
                self.state[p] |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
            self.state[p]["step"] += 1
        one, two = self.betas
        grads = [p.grad for p in moved if p.grad is not None]
        count = self.state[moved[0]]["step"]
        means, squares = ([self.state[p][k] for p in moved] for k in ("mean", "square"))
        torch._foreach_lerp_(means, grads, 1 - one)
        torch._foreach_mul_(squares, two)
        torch._foreach_addcmul_(squares, grads, grads, 1 - two)
        spread = torch._foreach_sqrt(torch._foreach_div(squares, 1 - two**count))
        torch._foreach_add_(spread, 1e-8)
        torch._foreach_addcdiv_(moved, torch._foreach_div(means, 1 - one**count), spread, -lr)
