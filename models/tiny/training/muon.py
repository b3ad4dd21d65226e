"""Muon (Jordan et al. 2024): momentum, then the nearest orthogonal matrix by five Newton-Schulz steps, for matrix parameters.

An update is scaled by 0.2 √max(rows, columns), so that one learning rate suits it and Adam (arXiv 2502.16982).
"""

import torch

# Fused parameters are orthogonalised part by part: the rows where each part ends.
PARTS = {"qkv": (128, 192, 256), "in_proj": (256, 512), "gate_up": (192, 384)}
WHOLE = ("o_proj", "x_proj", "out_proj", "down")


def orthogonalise(x):
    """Of each matrix of a stack [n, rows ≤ columns], approximately."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x


class Muon:
    def __init__(self, model, momentum=0.95, weight_decay=0.1):
        self.momentum, self.weight_decay = momentum, weight_decay
        kinds = {name: name.split(".")[-1] for name, _ in model.named_parameters()}
        self.parameters = {n: p for n, p in model.named_parameters() if kinds[n] in PARTS or kinds[n] in WHOLE}
        self.ends = {n: PARTS.get(kinds[n], (p.shape[-2],)) for n, p in self.parameters.items()}
        self.averages = {n: torch.zeros_like(p) for n, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate):
        by_shape = {}  # matrices of one shape, lying on their long side, are one stack
        for name, p in self.parameters.items():
            average = self.averages[name].lerp_(p.grad, 1 - self.momentum)
            update, start = p.grad.lerp(average, self.momentum), 0
            for end in self.ends[name]:
                stack, view = update[..., start:end, :], p[..., start:end, :]
                stack, start = stack.reshape(-1, *stack.shape[-2:]), end
                upright = stack.shape[1] > stack.shape[2]
                lying = stack.transpose(1, 2) if upright else stack
                by_shape.setdefault(lying.shape[1:], []).append((lying, view, upright))
        for (_, columns), entries in by_shape.items():
            stacks = orthogonalise(torch.cat([lying for lying, _, _ in entries])) * (0.2 * columns**0.5)
            for update, (lying, view, upright) in zip(stacks.split([len(e[0]) for e in entries]), entries):
                update = update.transpose(1, 2) if upright else update
                view.mul_(1 - learning_rate * self.weight_decay).add_(update.reshape(view.shape), alpha=-learning_rate)
