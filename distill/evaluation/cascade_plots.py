"""The plots of the cascade: what handing over buys, and how much a confidence means."""

from distill.evaluation.systems import CASCADE, STYLES, titles_of

HANDING_OVER = "handing_over.png"
UNSURE_FIRST = "the least sure first"
AT_RANDOM = "at random"
GREY = "#666666"


def cascade_figures(metrics: dict, new_figure, legend: dict) -> list[tuple]:
    """(title, file name, matplotlib's Figure) of each; none without a cascade.

    `new_figure` makes an empty one, and `legend` says where a legend is put.
    """
    found = metrics.get(CASCADE)
    if not found:
        return []
    figures = [
        (
            "What handing over buys",
            HANDING_OVER,
            handing_over(metrics, new_figure(9, 3.8), legend),
        )
    ]
    if found["held_out"]["after"]:
        title = "How often an answer of some confidence is the teacher's"
        figure = reliability_diagram(found["held_out"], new_figure(5, 4.4), legend)
        figures.append((title, "reliability.png", figure))
    return figures


def handing_over(metrics: dict, figure, legend: dict):
    """Accuracy on gold, and agreement of what the student keeps, over the share handed over."""
    found = metrics[CASCADE]
    systems = metrics["systems"]
    titles = titles_of(metrics)
    curve = found["curve"]
    shares = percents(curve["shares"])
    style = STYLES[CASCADE]
    gold, agreement = figure.subplots(1, 2)
    gold.plot(
        shares,
        percents(curve["accuracy"]),
        color=style.colour,
        linestyle="-",
        linewidth=2,
        label=UNSURE_FIRST,
    )
    ends = percents([curve["accuracy"][0], curve["accuracy"][-1]])
    gold.plot([0, 100], ends, color=GREY, linestyle=":", linewidth=2, label=AT_RANDOM)
    teacher = STYLES["teacher"]
    gold.axhline(
        100 * systems["teacher"]["accuracy"],
        color=teacher.colour,
        linestyle="-.",
        linewidth=1.5,
        label=titles["teacher"],
    )
    chosen = {
        "marker": style.marker,
        "color": style.colour,
        "markersize": 9,
        "markeredgecolor": "black",
        "linestyle": "",
    }
    share = 100 * found["share"]
    gold.plot([share], [100 * systems[CASCADE]["accuracy"]], label="as calibrated", **chosen)
    gold.set(xlabel="handed over, %", ylabel="right answers, %")
    kept = [value for value in curve["agreement"] if value is not None]
    agreement.plot(
        shares[: len(kept)], percents(kept), color=style.colour, linestyle="-", linewidth=2
    )
    if found["agreement_answered"] is not None:
        agreement.plot([share], [100 * found["agreement_answered"]], **chosen)
    agreement.set(xlabel="handed over, %", ylabel="rest that agrees with teacher, %")
    figure.legend(**legend)
    return figure


def reliability_diagram(held_out: dict, figure, legend: dict):
    """The share of the teacher's answers over the confidence, in bins, before and after.

    The area of a sign grows with the rows of its bin.
    """
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as it should be")
    ways = (
        ("before", "as the student has it", STYLES["student"]),
        ("after", "with the temperature", STYLES[CASCADE]),
    )
    for key, label, style in ways:
        bins = held_out[key]["bins"]
        most = max(found["rows"] for found in bins)
        axis.scatter(
            [found["confidence"] for found in bins],
            [found["right"] for found in bins],
            s=[30 + 200 * found["rows"] / most for found in bins],
            marker=style.marker,
            facecolor="none",
            edgecolor=style.colour,
            linewidth=2,
            label=f"{label} (error {held_out[key]['ece']:.3f})",
        )
    axis.set(
        xlabel="confidence", ylabel="the teacher's answer", xlim=(-0.02, 1.05), ylim=(-0.02, 1.05)
    )
    figure.legend(**{**legend, "ncols": 1})
    return figure


def percents(shares: list[float]) -> list[float]:
    """Shares as percent."""
    return [100 * share for share in shares]
