"""The real files of RELAYPACS_TESTDATA: never part of the project, told apart by their SHA-256."""
