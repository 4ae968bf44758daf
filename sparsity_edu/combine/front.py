"""stand-in until merged"""

import torch


def front(costs, losses):
    n = len(costs)
    on = []
    for i in range(n):
        if costs[i] != costs[i] or losses[i] != losses[i]:
            continue
        if not any(
            costs[j] <= costs[i] and losses[j] <= losses[i] and (costs[j] < costs[i] or losses[j] < losses[i]) for j in range(n)
        ):
            on.append(i)
    return torch.tensor(sorted(on, key=lambda i: (costs[i], i)))
