"""What is asked of the node, as figures of cases of the journal."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Asked:
    """`figure` of the node in `case`, at least (or at most) `bound` times that of `versus`; without it, `bound` itself."""

    case: str
    figure: str
    at_least: bool
    bound: float
    versus: str | None = None
    # The case of `versus`, where it is another one.
    other_case: str | None = None


def least(case, bound, versus, figure="per_second"):
    return Asked(case, figure, True, bound, versus)


def most(case, bound, versus=None, figure="p99_ms", other_case=None):
    return Asked(case, figure, False, bound, versus, other_case)


def beside(case, versus):
    """Nothing is asked of the ratio: it is there to be seen."""
    return least(case, 0, versus)


ASKED = [
    least("storescu m", 0.75, "quicknull"),
    least("a N=1", 3, "orthanc"),
    least("a N=1", 0.7, "null"),
    least("a N=8", 2.5, "orthanc"),
    least("a N=8", 0.7, "null"),
    least("b N=1", 3, "orthanc"),
    least("b N=1", 0.6, "null"),
    most("b N=1", 2, "null"),
    least("b N=8", 4, "orthanc"),
    least("b N=8", 0.6, "null"),
    most("b N=8", 2, "null"),
    least("b N=16", 4, "orthanc"),
    least("b N=16", 0.6, "null"),
    most("b N=16", 2, "null"),
    least("c N=4", 2, "orthanc"),
    least("d N=1", 2, "orthanc"),
    most("memory d", 64, figure="peak_mib"),
    most("memory 16 b", 64, figure="peak_mib"),
    most("a N=8", 0.25, "orthanc", figure="cpu_per_gb"),
    most("b N=8", 0.2, "orthanc", figure="cpu_per_gb"),
    least("STOW b", 4, "orthanc"),
    least("STOW a", 3, "orthanc"),
    least("QIDO 10k limit=100 cold", 10, "orthanc"),
    most("QIDO 10k limit=100 cold", 1, "orthanc"),
    least("QIDO 10k PatientID cold", 5, "orthanc"),
    most("QIDO 10k PatientID cold", 1, "orthanc"),
    least("QIDO 10k name wildcard cold", 5, "orthanc"),
    most("QIDO 10k name wildcard cold", 1, "orthanc"),
    least("QIDO 10k date range cold", 5, "orthanc"),
    most("QIDO 10k date range cold", 1, "orthanc"),
    most("QIDO 100k StudyInstanceUID cold", 0.03, "orthanc"),
    most("QIDO 100k PatientID cold", 0.03, "orthanc"),
    most("QIDO 100k limit=100 cold", 0.05, "orthanc"),
    most("C-FIND 100k StudyInstanceUID", 0.03, "orthanc", figure="p50_ms"),
    most("C-FIND 100k StudyInstanceUID", 1.5, "relaypacs", figure="p50_ms", other_case="C-FIND 10k StudyInstanceUID"),
    *(
        most(f"QIDO 1M {name} cold", 2, "relaypacs", other_case=f"QIDO 100k {name} cold")
        for name in ("limit=100", "PatientID", "name wildcard", "date range", "StudyInstanceUID")
    ),
    most("C-FIND 1M StudyInstanceUID", 2, "relaypacs", figure="p50_ms", other_case="C-FIND 100k StudyInstanceUID"),
    Asked("fill 1M", "per_second", True, 0.9, "relaypacs", "fill 100k"),
    least("WADO instance", 3, "orthanc"),
    least("WADO metadata", 10, "orthanc"),
    # Not asked, but what the first reader of a study meets.
    least("WADO metadata cold", 1, "orthanc"),
    least("WADO study", 1, "orthanc"),
    least("forward 400 b", 8, "orthanc"),
    most("forward 400 b", 0.1, "orthanc", figure="lag_seconds"),
    most("forward single", 20, figure="p50_ms"),
    most("binary", 60, figure="mb"),
    most("cold start", 1, figure="seconds"),
    most("start with 1M", 15, figure="seconds"),
    *(beside(case, "storescp") for case in ("storescu m", "a N=1", "a N=8", "b N=1", "b N=8", "b N=16", "c N=4", "d N=1")),
]
