"""The flags of step 3 that say when the student is to ask its teacher."""

from argparse import Namespace

from distill.evaluation.choices import HandingOver


def add_calibration_flags(parser) -> None:
    """Which rows it is found out by, and what is wanted."""
    parser.group("when the student asks the teacher")
    parser.add("calibration_file", "", "rows with the teacher's answers (default: the adapter's)")
    share = "share of requests for the teacher, where the student is least sure"
    parser.add("hand_over", 0.05, share, at_least=0, at_most=1)
    target = "or as few as keep this agreement on the others"
    parser.add("target_agreement", None, target, 0.5, 0.9999, kind=float)
    parser.add("self_agreement_rows", 100, "of these asked twice", at_least=0, rare=True)


def handing_over_of(args: Namespace, systems: list[str]) -> HandingOver:
    """What these flags choose. Raises ValueError."""
    if args.calibration_file and "student" not in systems:
        raise ValueError("--calibration_file: --systems leaves the student out")
    return HandingOver(
        file=args.calibration_file,
        share=args.hand_over,
        target_agreement=args.target_agreement,
        asked_again=args.self_agreement_rows,
    )
