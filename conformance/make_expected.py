"""Writes expected.tsv anew from a run against the node: `python make_expected.py [--archive]`.

What it writes is a proposal that a person reviews line by line before it is committed: the table says what is right,
a run only says what is. With `--archive` each stored file is also sent straight to Orthanc, to learn on which of them
the archive itself dies, or which it refuses; these go to another sink in the end-to-end tests. Without it the column
is kept from the table that there is.
"""

import argparse
import csv
import os
import sys
import tempfile
import time

from real_files.collection import COLUMNS, DICOMDIR, EXPECTED, NO_STUDY, TEXT, TRUNCATED, expected, files, peek
from real_files.doors import STORED, c_store, stow
from subject import Orthanc, RelayPacs

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
HEAD = """\
# What becomes of each real file. c_store and stow: "stored", or "refused" with the status (C-STORE) or FailureReason
# (STOW). archive: what Debian's Orthanc 1.10.1 does when it is sent there: "keeps", "refuses CODE", "aborts",
# "dies", "changes".
"""


def archive_outcomes(wanted):
    """What Orthanc does with each file, by SHA-256."""
    from e2e.comparison import difference

    found, orthanc = {}, Orthanc().start()
    for file in wanted:
        outcome, _ = c_store(orthanc, file.instance)
        time.sleep(0.02)
        if orthanc.died():
            found[file.sha256] = "dies"
            orthanc.remove()
            orthanc = Orthanc().start()
        elif outcome != STORED:
            found[file.sha256] = outcome.replace("refused", "refuses").replace("abort", "aborts")
        else:
            identifier = orthanc.instances().get(file.instance.sop_instance)
            same = identifier and not difference(file.instance, orthanc.file(identifier))
            found[file.sha256] = "keeps" if same else "changes"
            if identifier:
                orthanc.http.delete(f"{orthanc.rest}/instances/{identifier}", timeout=30)
    orthanc.remove()
    return found


def why(file, c_store_outcome, comment):
    """Why it is refused, in words: what the file lacks; else what the node said."""
    if c_store_outcome == STORED:
        return ""
    header = peek(file.data)
    if file.data[:64].decode("latin-1").isprintable() or file.data.startswith(b"#"):
        return TEXT
    if file.instance.sop_class == MEDIA_STORAGE_DIRECTORY:
        return DICOMDIR
    if c_store_outcome == "refused context":
        return NO_STUDY
    if "ends inside" in comment:
        return TRUNCATED
    for keyword in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not header.get(keyword):
            return f"no {keyword}"
    return comment


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", action="store_true", help="also ask Orthanc")
    options = parser.parse_args()
    all_files = files()
    if not all_files:
        sys.exit("no test data: set RELAYPACS_TESTDATA")
    before = expected() if EXPECTED.exists() else {}
    dimse, web = RelayPacs().start(), RelayPacs().start()
    rows = []
    for file in all_files:
        by_dimse, comment = c_store(dimse, file.instance)
        rows.append(
            {
                "sha256": file.sha256,
                "file": file.name,
                "c_store": by_dimse,
                "stow": stow(web, file.data),
                "archive": before.get(file.sha256, {}).get("archive", ""),
                "reason": why(file, by_dimse, comment),
            }
        )
    dimse.remove()
    web.remove()
    if options.archive:
        wanted = [file for file, row in zip(all_files, rows) if row["c_store"] == STORED and not file.malformed]
        asked = archive_outcomes(wanted)
        for row in rows:
            row["archive"] = asked.get(row["sha256"], "")
    with tempfile.NamedTemporaryFile("w", dir=EXPECTED.parent, newline="", delete=False) as out:
        out.write(HEAD)
        writer = csv.DictWriter(
            out, COLUMNS, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    EXPECTED.write_text(open(out.name).read())
    os.unlink(out.name)
    stored = sum(1 for row in rows if row["c_store"] == STORED and not row["file"].startswith("malformed/"))
    real = sum(1 for row in rows if not row["file"].startswith("malformed/"))
    print(f"{stored} of {real} real files are stored; review the differences with git diff")


if __name__ == "__main__":
    main()
