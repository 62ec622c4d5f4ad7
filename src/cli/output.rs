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
    let widths: Vec<usize> = T::TITLES
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let widest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            widest.max(title.len())
        })
        .collect();
    let titles = T::TITLES.iter().map(|title| title.to_string()).collect();
    for row in std::iter::once(&titles).chain(&cells) {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        write_line(line.join("  ").trim_end())?;
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
