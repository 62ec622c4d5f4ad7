//! A statement built piece by piece: text from this program, values from anywhere. It numbers
//! its placeholders `$1`, `$2`…, which both databases take, and is the one place that asserts to
//! sqlx that a text is safe. Statements with many values are built [`Sql::within`] a transaction, or [`Sql::for_only`]:
//! SQLite's driver finds a numbered placeholder by walking through those before it.

use std::fmt::Write;

use sqlx::any::{AnyArguments, AnyQueryResult, AnyRow};
use sqlx::{Any, Arguments, AssertSqlSafe, Executor, Transaction};

use super::{Dialect, StoreError};

#[derive(Default)]
pub struct Sql {
    text: String,
    arguments: AnyArguments,
    count: usize,
    /// Placeholders are `?`, which only SQLite takes.
    unnumbered: bool,
}

/// What a placeholder may stand for: the portable types, TEXT and BIGINT.
pub enum Bind {
    Text(Option<String>),
    Number(Option<i64>),
}

impl Sql {
    pub fn new(text: &'static str) -> Sql {
        let mut sql = Sql::default();
        sql.push(text);
        sql
    }

    /// For this kind of database alone.
    pub fn for_only(dialect: Dialect, text: &'static str) -> Sql {
        Sql { unnumbered: dialect == Dialect::Sqlite, ..Sql::new(text) }
    }

    /// For this transaction's database alone.
    pub fn within(tx: &Transaction<'static, Any>, text: &'static str) -> Sql {
        Sql { unnumbered: tx.backend_name() == "SQLite", ..Sql::new(text) }
    }

    /// Adds text of this program; `&'static str` keeps values out.
    pub fn push(&mut self, text: &'static str) -> &mut Sql {
        self.text.push_str(text);
        self
    }

    /// Adds the name of a column or table, which must be one of ours.
    pub fn name(&mut self, name: &str) -> &mut Sql {
        let is_name =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'.';
        debug_assert!(name.bytes().all(is_name), "{name:?} is not a name");
        self.text.extend(name.bytes().filter(|byte| is_name(*byte)).map(char::from));
        self
    }

    /// Adds a placeholder for `value`.
    pub fn bind(&mut self, value: impl Into<Bind>) -> &mut Sql {
        self.count += 1;
        // Writing to a string does not fail.
        let _ = match self.unnumbered {
            true => self.text.write_str("?"),
            false => write!(self.text, "${}", self.count),
        };
        let added = match value.into() {
            Bind::Text(text) => self.arguments.add(text.map(without_nul)),
            Bind::Number(number) => self.arguments.add(number),
        };
        debug_assert!(added.is_ok());
        self
    }

    /// Adds `(v1, v2, …)`.
    pub fn list<B: Into<Bind>>(&mut self, values: impl IntoIterator<Item = B>) -> &mut Sql {
        let mut separator = "(";
        for value in values {
            self.push(separator).bind(value);
            separator = ", ";
        }
        if separator == "(" {
            // No value is in an empty list; the grammar wants one.
            return self.push("(NULL)");
        }
        self.push(")")
    }

    /// Adds ` LIMIT n`, as a literal: SQLite plans a statement anew each time that its bound limit is bound again.
    pub fn limit(&mut self, rows: u64) -> &mut Sql {
        let _ = write!(self.text, " LIMIT {rows}");
        self
    }

    /// How many placeholders it has: SQLite allows 32 766, PostgreSQL 65 535.
    pub fn placeholders(&self) -> usize {
        self.count
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub async fn fetch_all<'c>(
        self,
        executor: impl Executor<'c, Database = Any>,
    ) -> Result<Vec<AnyRow>, StoreError> {
        Ok(sqlx::query_with(AssertSqlSafe(self.text), self.arguments).fetch_all(executor).await?)
    }

    pub async fn fetch_optional<'c>(
        self,
        executor: impl Executor<'c, Database = Any>,
    ) -> Result<Option<AnyRow>, StoreError> {
        Ok(sqlx::query_with(AssertSqlSafe(self.text), self.arguments).fetch_optional(executor).await?)
    }

    /// Returns the number of rows changed.
    pub async fn execute<'c>(self, executor: impl Executor<'c, Database = Any>) -> Result<u64, StoreError> {
        let result: AnyQueryResult =
            sqlx::query_with(AssertSqlSafe(self.text), self.arguments).execute(executor).await?;
        Ok(result.rows_affected())
    }
}

/// PostgreSQL's TEXT can't hold U+0000, and no DICOM text means anything by it.
fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { text }
}

impl From<String> for Bind {
    fn from(text: String) -> Bind {
        Bind::Text(Some(text))
    }
}

impl From<&str> for Bind {
    fn from(text: &str) -> Bind {
        Bind::Text(Some(text.to_owned()))
    }
}

impl From<&String> for Bind {
    fn from(text: &String) -> Bind {
        Bind::Text(Some(text.clone()))
    }
}

impl From<Option<String>> for Bind {
    fn from(text: Option<String>) -> Bind {
        Bind::Text(text)
    }
}

impl From<Option<&str>> for Bind {
    fn from(text: Option<&str>) -> Bind {
        Bind::Text(text.map(str::to_owned))
    }
}

impl From<i64> for Bind {
    fn from(number: i64) -> Bind {
        Bind::Number(Some(number))
    }
}

impl From<Option<i64>> for Bind {
    fn from(number: Option<i64>) -> Bind {
        Bind::Number(number)
    }
}

/// Sequence numbers, lengths and times stay far below 2⁶³.
impl From<u64> for Bind {
    fn from(number: u64) -> Bind {
        Bind::Number(Some(number as i64))
    }
}

impl From<crate::clock::Millis> for Bind {
    fn from(at: crate::clock::Millis) -> Bind {
        at.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_and_values_stay_out_of_the_text() {
        let mut sql = Sql::new("SELECT 1 FROM t WHERE a = ");
        sql.bind("'; DROP TABLE t; --").push(" AND b IN ").list([1_i64, 2]).push(" AND c IN ");
        sql.list(Vec::<String>::new()).limit(5);
        assert_eq!(sql.text(), "SELECT 1 FROM t WHERE a = $1 AND b IN ($2, $3) AND c IN (NULL) LIMIT 5");
        assert_eq!(sql.placeholders(), 3);
    }
}
