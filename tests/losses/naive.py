"""The objectives once more, one number at a time, straight from the equations: no matrices, no masks.

Everything is a float64 scalar with a graph, so that gradients can be compared as well.
"""

import torch


def dot(a, b):
    return sum(x * y for x, y in zip(a.unbind(), b.unbind(), strict=True))


def present(views, row):
    return [v[row] for v, has in ((views.text, views.has_text), (views.image, views.has_image)) if has[row]]


def fused_vector(views, row):
    parts = present(views, row)
    return sum(parts) if parts else torch.zeros_like(views.text[row])


def similarity(users, candidates, u, j, view, cross_terms=True):
    if view == "both" and not cross_terms:
        squares = [sum((dot(z, z) for z in present(v, r)), 0.0) for v, r in ((users, u), (candidates, j))]
        alone = [
            similarity(users, candidates, u, j, m)
            for m in ("text", "image")
            if has(users, m, u) and has(candidates, m, j)
        ]
        return sum(alone, torch.zeros_like(users.text[0, 0])) / torch.sqrt(squares[0] * squares[1])
    if view == "both":
        a, b = fused_vector(users, u), fused_vector(candidates, j)
        return dot(a, b) / torch.sqrt(dot(a, a) * dot(b, b))
    return dot(getattr(users, view)[u], getattr(candidates, view)[j])


def negatives_of(u, batch):
    seen = set() if batch["history_ids"] is None else {int(i) for i in batch["history_ids"][u] if i >= 0}
    target = int(batch["target_ids"][u])
    return [j for j, item in enumerate(batch["candidate_ids"].tolist()) if item != target and item not in seen]


def has(views, modality, row):
    return bool(getattr(views, f"has_{modality}")[row])


def margin(batch, u, modality, negatives, form, tau):
    """A number with a graph, or None where the margin is undefined."""
    users, candidates, plus = batch["users"], batch["candidates"], int(batch["positive"][u])
    usable = [j for j in negatives if has(candidates, modality, j)]
    if not (has(users, modality, u) and has(candidates, modality, plus) and usable):
        return None
    target = similarity(users, candidates, u, plus, modality)
    others = [similarity(users, candidates, u, j, modality) for j in usable]
    if form == "mean":
        return target - sum(others) / len(others)
    if form == "hardest":
        return target - max(others)
    exponentials = torch.stack([torch.exp(s / tau) for s in others]).sum()
    if form == "logmeanexp":
        return target - tau * torch.log(exponentials / len(others))
    return torch.log(torch.exp(target / tau) / (torch.exp(target / tau) + exponentials))


def omega(batch, u, negatives, c):
    text, image = (margin(batch, u, m, negatives, c["margin"], c["temperature"]) for m in ("text", "image"))
    if text is None or image is None:
        return torch.ones((), dtype=torch.float64)
    strong, weak = (text, image) if text >= image else (image, text)
    gap = strong.detach() - weak
    if c["detach"] == "both":
        gap = gap.detach()
    return torch.exp(c["wpcl_lambda"] * gap) if c["penalty"] == "exp" else 1 + c["wpcl_lambda"] * gap


def contrast(batch, u, view, negatives, weights, tau):
    users, candidates = batch["users"], batch["candidates"]
    log_q = batch.get("candidate_log_q")

    def exponential(j):
        q = 1.0 if log_q is None else torch.exp(log_q[j])
        return torch.exp(similarity(users, candidates, u, j, view, batch.get("cross_terms", True)) / tau) / q

    plus = exponential(int(batch["positive"][u]))
    minus = [exponential(j) for j in negatives]
    return -torch.log(plus / (plus + sum(w * e for w, e in zip(weights, minus, strict=True))))


def info_nce(batch, view, tau):
    losses = []
    for u in range(len(batch["target_ids"])):
        negatives = negatives_of(u, batch)
        if view != "both":
            negatives = [j for j in negatives if has(batch["candidates"], view, j)]
            if not (has(batch["users"], view, u) and has(batch["candidates"], view, int(batch["positive"][u]))):
                continue
        if negatives:
            losses.append(contrast(batch, u, view, negatives, [1.0] * len(negatives), tau))
    return sum(losses) / len(losses)


def wpcl(batch, c):
    losses = []
    for u in range(len(batch["target_ids"])):
        negatives = negatives_of(u, batch)
        if not negatives:
            continue
        if c["scope"] == "pair":
            weights = [omega(batch, u, [j], c) for j in negatives]
        else:
            weights = [omega(batch, u, negatives, c)] * len(negatives)
        losses.append(contrast(batch, u, "both", negatives, weights, c["temperature"]))
    return sum(losses) / len(losses)


def crtr(batch, c):
    users, candidates, tau = batch["users"], batch["candidates"], c["crtr_temperature"]
    losses = []
    for u in range(len(batch["target_ids"])):
        if not (has(users, "text", u) and has(users, "image", u)):
            continue
        negatives = negatives_of(u, batch)
        ranked = [
            j
            for j in sorted({*negatives, int(batch["positive"][u])})
            if has(candidates, "text", j) and has(candidates, "image", j)
        ]
        if len(ranked) < 2:
            continue
        q = {}
        for m in ("text", "image"):
            e = [torch.exp(similarity(users, candidates, u, j, m) / tau) for j in ranked]
            q[m] = [x / sum(e) for x in e]
        if c["crtr_stop_gradient"] == "strong":
            margins = {m: margin(batch, u, m, negatives, c["margin"], c["temperature"]) for m in ("text", "image")}
            if margins["text"] is None or margins["image"] is None:
                continue
            strong = max(margins, key=lambda m: float(margins[m].detach()))
            q[strong] = [x.detach() for x in q[strong]]
        forward = sum(t * torch.log(t / v) for t, v in zip(q["text"], q["image"], strict=True))
        backward = sum(v * torch.log(v / t) for t, v in zip(q["text"], q["image"], strict=True))
        losses.append((forward + backward) / 2)
    return sum(losses) / len(losses)


def terms(batch, c):
    """Name -> weighted term, for the configuration of `VLM2RecLoss.get_config_dict()` with constant numbers."""
    tau, objective = c["temperature"], c["objective"]
    batch = {**batch, "cross_terms": c["cross_terms"]}
    if objective in ("text_only", "image_only"):
        view = objective.removesuffix("_only")
        return {f"info_nce_{view}": info_nce(batch, view, tau)}
    parts = objective.split("+")
    w = c["unimodal_weight"] if "unimodal" in parts else 0.0
    if "wpcl" in parts:
        found = {"wpcl": (1 - 2 * w) * wpcl(batch, c)}
    else:
        found = {"info_nce": (1 - 2 * w) * info_nce(batch, "both", tau)}
    if "crtr" in parts:
        found["crtr"] = c["crtr_beta"] * crtr(batch, c)
    if "unimodal" in parts:
        found |= {f"info_nce_{view}": w * info_nce(batch, view, tau) for view in ("text", "image")}
    return found
