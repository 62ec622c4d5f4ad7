//! Lists on standard output: aligned columns for people, one JSON object a line for programs.

use std::io::Write;

use serde::Serialize;

/// The columns of a row, for people.
pub trait Row {
    const TITLES: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

pub fn list<T: Row + Serialize>(rows: &[T], json: bool) -> anyhow::Result<()> {
    if json {
        return rows.iter().try_for_each(json_line);
    }
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    table(T::TITLES.iter().map(|title| title.to_string()).collect(), &cells)
}

/// Titles and rows, each of as many cells, in columns.
pub fn table(titles: Vec<String>, rows: &[Vec<String>]) -> anyhow::Result<()> {
    let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        write_line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

pub fn json_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    write_line(&serde_json::to_string(value)?)
}

/// A reader that went away (`| head`) ends the command quietly.
pub fn write_line(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}

pub fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
