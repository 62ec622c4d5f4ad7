//! All that differs between the two databases. Everything else is one statement text for both.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::sqlite::SqliteConnectOptions;

use super::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Postgres,
}

/// FULL, because in WAL mode NORMAL loses the last commits at a power cut. The write-ahead log is folded in at 16 MiB: four
/// times as rarely as by default, because the pages of a large index that a batch touches lie far apart, and their writes
/// and syncs take from the log's (docs/performance.md, fill 1M).
pub(super) const SQLITE_WRITER_PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON; PRAGMA cache_size = -4096; \
     PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 33554432;";
pub(super) const SQLITE_READER_PRAGMAS: &str =
    "PRAGMA busy_timeout = 5000; PRAGMA cache_size = -2048; PRAGMA query_only = ON;";

/// Run after each `migrate up`; says of itself what it is for.
pub(super) const POSTGRES_AFTER_UP: &str = include_str!("../../migrations/postgres/after_up.sql");

impl Dialect {
    pub(super) fn of_url(url: &str) -> Result<Dialect, StoreError> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Ok(Dialect::Sqlite),
            Some("postgres" | "postgresql") => Ok(Dialect::Postgres),
            _ => Err(StoreError::Url("neither sqlite:// nor postgres://".into())),
        }
    }

    /// SQLite takes its write lock at the first write otherwise, and fails at once when what it
    /// read before is stale by then.
    pub(super) fn begin_write(self) -> &'static str {
        match self {
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        }
    }

    /// The operator that matches wildcards case-sensitively, on both: SQLite's LIKE ignores the
    /// case of ASCII.
    pub fn like(self) -> &'static str {
        match self {
            Dialect::Sqlite => " GLOB ",
            Dialect::Postgres => " LIKE ",
        }
    }

    /// The pattern for [`Dialect::like`] of texts that contain a backslash.
    pub fn with_backslash(self) -> &'static str {
        match self {
            Dialect::Sqlite => r"'*\*'",
            Dialect::Postgres => r"'%\\%'",
        }
    }

    /// The pattern for [`Dialect::like`] of a DICOM wildcard value (PS3.4 §C.2.2.2.4): only `*`
    /// and `?` are special.
    pub fn pattern(self, wildcard: &str) -> String {
        let mut pattern = String::with_capacity(wildcard.len() + 8);
        let mut after_star = false;
        for character in wildcard.chars() {
            let star = character == '*';
            // A run of stars means one, and costs more.
            if star && after_star {
                continue;
            }
            after_star = star;
            match (self, character) {
                (Dialect::Sqlite, '[') => pattern.push_str("[[]"),
                (Dialect::Sqlite, other) => pattern.push(other),
                (Dialect::Postgres, '*') => pattern.push('%'),
                (Dialect::Postgres, '?') => pattern.push('_'),
                (Dialect::Postgres, special @ ('%' | '_' | '\\')) => {
                    pattern.push('\\');
                    pattern.push(special);
                }
                (Dialect::Postgres, other) => pattern.push(other),
            }
        }
        pattern
    }
}

/// `sqlite://PATH` of a path, with the characters escaped that a URL gives a meaning.
pub fn sqlite_url(path: &Path) -> String {
    let path = path.as_os_str().as_encoded_bytes();
    let escaped = percent_encoding::percent_encode(path, &PATH_ESCAPES);
    format!("sqlite://{escaped}")
}

const PATH_ESCAPES: percent_encoding::AsciiSet =
    percent_encoding::CONTROLS.add(b'?').add(b'#').add(b'%').add(b' ').add(b'"').add(b'<').add(b'>');

/// The file that a SQLite URL names. A database in memory would be another one for each
/// connection.
pub(super) fn sqlite_file(url: &str) -> Result<PathBuf, StoreError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|error| StoreError::Url(error.to_string()))?;
    let file = options.get_filename().to_owned();
    let in_memory = url.contains(":memory:") || url.contains("mode=memory");
    if in_memory || file.as_os_str().is_empty() {
        return Err(StoreError::Url("SQLite needs a file".into()));
    }
    Ok(file)
}

/// Creates the file, and its directory, readable by us alone: it holds patients' names.
pub(super) fn create_sqlite_file(file: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;

    let failed = |source| StoreError::File { path: file.to_owned(), source };
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file).map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_star_and_question_mark_are_wildcards() {
        assert_eq!(Dialect::Postgres.pattern(r"a%b_c\d[e**?"), r"a\%b\_c\\d[e%_");
        assert_eq!(Dialect::Sqlite.pattern(r"a%b_c\d[e]**?"), r"a%b_c\d[[]e]*?");
    }

    #[test]
    fn a_path_survives_its_url() {
        let path = Path::new("/tmp/a b#c?d%20/relaypacs.db");
        assert_eq!(sqlite_file(&sqlite_url(path)).unwrap(), path);
    }

    #[test]
    fn a_database_in_memory_is_refused() {
        for url in ["sqlite::memory:", "sqlite://?mode=memory", "sqlite://"] {
            assert!(sqlite_file(url).is_err(), "{url}");
        }
    }
}
