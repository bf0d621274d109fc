"""The numbers of `study=diffusion_in_diffusion`: its headline, its table in the terminal, its words for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .core.finding import markdown_table

NAME = "diffusion_in_diffusion"
ALONE = "alone"  # each source denoised on its own, the finished pictures merged


def headline(rows: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """The numbers of its page, means over the layouts.

    k = 1 .. K/3 is the earliest third of the merges, k > 2K/3 the latest. `of_decoded` is the contrast against a merge
    at k = 0, which only the decoder has seen: what the denoising itself mixed.
    """
    from sow.dynamics.merging import mean_by_k

    def values(row: str, column: str) -> dict[int, float]:
        return dict(zip(*mean_by_k(rows, row, column), strict=True))

    kept, alone = values("unprocessed", "contrast_kept"), values(ALONE, "contrast_kept")
    decoded = kept.pop(0)
    of_decoded = {k: v / decoded if decoded else float("nan") for k, v in kept.items()}
    plain, lifted = (values(row, "upper_right_to_lower_left") for row in ("unprocessed", "enhanced"))
    nearer = {k: plain[k] - lifted[k] for k in kept}
    own_plain, own = (values(row, "upper_right_kept") for row in ("unprocessed", "suppressed"))
    early, late = [k for k in kept if 3 * k <= steps], [k for k in kept if 3 * k > 2 * steps]
    return {
        "contrast_kept": kept,
        "contrast_kept_decoder_only": decoded,
        "contrast_kept_alone_lowest": min(alone.values()),
        "earliest_third": ends(kept, of_decoded, early),
        "latest_third": ends(kept, of_decoded, late),
        "enhanced_nearer_by": nearer,
        "enhanced_nearer_by_mean": sum(nearer.values()) / len(nearer),
        "enhanced_nearer_by_lowest": min(nearer.values()),
        "suppressed_upper_right_kept": own,
        "suppressed_upper_right_kept_lowest": min(own[k] for k in kept),
        "unprocessed_upper_right_kept": own_plain,
        "unprocessed_upper_right_kept_lowest": min(own_plain[k] for k in kept),
        "upper_right_kept_decoder_only": own_plain[0],
        "holds": {
            "earliest_third_keeps_90_percent": min(kept[k] for k in early) >= 0.9,
            "earliest_third_keeps_90_percent_of_decoded": min(of_decoded[k] for k in early) >= 0.9,
            "latest_third_keeps_at_most_25_percent": max(kept[k] for k in late) <= 0.25,
            "enhanced_never_farther": min(nearer.values()) >= 0,
            "enhanced_strictly_nearer_from_a_third": min(v for k, v in nearer.items() if 3 * k >= steps) > 0,
            "suppressed_keeps_95_percent": min(own[k] for k in kept) >= 0.95,
            "suppressed_keeps_more_than_unprocessed": all(own[k] >= own_plain[k] for k in kept),
        },
    }


def ends(kept: Mapping[int, float], of_decoded: Mapping[int, float], ks: Sequence[int]) -> dict[str, float]:
    """Mean, lowest and highest contrast over some merge steps."""
    return {
        "mean": sum(kept[k] for k in ks) / len(ks),
        "lowest": min(kept[k] for k in ks),
        "highest": max(kept[k] for k in ks),
        "mean_of_decoded": sum(of_decoded[k] for k in ks) / len(ks),
        "lowest_of_decoded": min(of_decoded[k] for k in ks),
        "highest_of_decoded": max(of_decoded[k] for k in ks),
    }


def short(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line a merge step, means over the layouts."""
    from sow.dynamics.merging import mean_by_k

    columns = {
        "contrast_kept": ("unprocessed", "contrast_kept"),
        "alone": (ALONE, "contrast_kept"),
        "to_lower_left": ("unprocessed", "upper_right_to_lower_left"),
        "to_lower_left_enhanced": ("enhanced", "upper_right_to_lower_left"),
        "own_kept": ("unprocessed", "upper_right_kept"),
        "own_kept_suppressed": ("suppressed", "upper_right_kept"),
    }
    found = {name: mean_by_k(rows, *where)[1] for name, where in columns.items()}
    ks = mean_by_k(rows, "unprocessed", "contrast_kept")[0]
    return [{"k": k, **{name: found[name][i] for name in columns}} for i, k in enumerate(ks)]


def markdown(found: Mapping[str, Any], table: Sequence[Mapping[str, Any]], steps: int) -> str:
    """What its page says."""
    early, late = found["earliest_third"], found["latest_third"]
    holds = {k: "yes" if v else "no" for k, v in found["holds"].items()}
    expected = [
        (
            "(a) merged near the clean picture (k <= K / 3): at least 90 % of the contrast",
            f"{early['mean']:.1%} on average, lowest {early['lowest']:.1%}",
            "earliest_third_keeps_90_percent",
        ),
        (
            "... of what the decoder alone leaves (k = 0)",
            f"{early['mean_of_decoded']:.1%} on average, lowest {early['lowest_of_decoded']:.1%}",
            "earliest_third_keeps_90_percent_of_decoded",
        ),
        (
            "(a) merged in the noise (k > 2 K / 3): at most 25 %",
            f"{late['mean']:.1%} on average, highest {late['highest']:.1%}",
            "latest_third_keeps_at_most_25_percent",
        ),
        (
            "(b) enhanced: upper right never farther from lower left's colour",
            f"nearer by {found['enhanced_nearer_by_mean']:.1f} gray levels on average, lowest "
            f"{found['enhanced_nearer_by_lowest']:.2f}",
            "enhanced_never_farther",
        ),
        ("(b) strictly nearer for k >= K/3", "", "enhanced_strictly_nearer_from_a_third"),
        (
            "(c) suppressed: upper right keeps at least 95 % of its contrast",
            f"lowest {found['suppressed_upper_right_kept_lowest']:.1%}, unprocessed "
            f"{found['unprocessed_upper_right_kept_lowest']:.1%}, the decoder alone {found['upper_right_kept_decoder_only']:.1%}",
            "suppressed_keeps_95_percent",
        ),
        ("(c) never less than unprocessed", "", "suppressed_keeps_more_than_unprocessed"),
    ]
    lines = [
        f"![Two pictures merged at every step and denoised]({NAME}.png)",
        "",
        f"K = {steps}, means over the layouts; contrast is the share of the sources' own, distances are in gray levels. Each source "
        f"denoised alone, the finished pictures merged, keeps at least {found['contrast_kept_alone_lowest']:.1%}; halves merged as clean "
        f"latents and only decoded keep {found['contrast_kept_decoder_only']:.1%}.",
        "",
        "| expected | found | holds |",
        "| --- | --- | --- |",
        *(f"| {words} | {numbers} | {holds[key]} |" for words, numbers, key in expected),
        "",
        markdown_table(table),
    ]
    return "\n".join(lines)
