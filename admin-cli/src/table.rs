//! Tables: aligned and rounded for people, tab-separated and exact for programs. Pure.

use std::fmt::Write as _;

use nsq_protocol::printable;

use crate::report::Rate;

/// The content of one cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Text, left-aligned.
    Text(String),
    /// A count.
    Count(i128),
    /// A rate per second.
    PerSecond(Rate),
    /// An empty cell, shown as `-`.
    None,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(text)
    }
}

impl From<i64> for Cell {
    fn from(count: i64) -> Self {
        Cell::Count(count.into())
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Cell::Count(count.into())
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        // A `usize` always fits.
        Cell::Count(i128::try_from(count).unwrap_or(i128::MAX))
    }
}

impl From<Option<Rate>> for Cell {
    fn from(rate: Option<Rate>) -> Self {
        rate.map_or(Cell::None, Cell::PerSecond)
    }
}

/// A table with a row of headings.
#[derive(Debug, Clone)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(headings: &'static [&'static str]) -> Self {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds columns at the end. Call before rows are added.
    pub fn add_columns(&mut self, headings: &'static [&'static str]) {
        self.headings.extend(headings);
    }

    /// Adds a row, one cell per heading.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// For a terminal: aligned columns, rounded figures.
    pub fn aligned(&self) -> String {
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(rounded).collect()).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.headings[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let is_number =
            |column: usize| self.rows.iter().any(|row| !matches!(row[column], Cell::Text(_) | Cell::None));
        let right: Vec<bool> = (0..self.headings.len()).map(is_number).collect();

        let mut text = String::new();
        let headings: Vec<String> = self.headings.iter().map(|&heading| heading.to_owned()).collect();
        for row in std::iter::once(&headings).chain(&rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                // Writing to a String cannot fail.
                let _ = if right[column] {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// For programs: tab-separated cells, exact figures.
    pub fn tab_separated(&self) -> String {
        let mut text = self.headings.join("\t") + "\n";
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(exact).collect();
            text += &cells.join("\t");
            text.push('\n');
        }
        text
    }
}

fn exact(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) if text.is_empty() => "-".to_owned(),
        Cell::Text(text) => printable(text).into_owned(),
        Cell::Count(count) => count.to_string(),
        Cell::PerSecond(rate) => format!("{:.1}", rate.0),
        Cell::None => "-".to_owned(),
    }
}

fn rounded(cell: &Cell) -> String {
    match cell {
        Cell::Count(count) => figure(*count as f64, 0),
        Cell::PerSecond(rate) => figure(rate.0, usize::from(rate.0 < 10.0)),
        other => exact(other),
    }
}

/// Rounds to three or four digits and a unit: `1234` stays, `12345` becomes `12.3k`.
fn figure(number: f64, decimals: usize) -> String {
    let mut scaled = number;
    let mut unit = "";
    for larger in ["k", "M", "G", "T", "P", "E"] {
        if scaled.abs() < if unit.is_empty() { 9_999.5 } else { 999.95 } {
            break;
        }
        scaled /= 1000.0;
        unit = larger;
    }
    if unit.is_empty() { format!("{scaled:.decimals$}") } else { format!("{scaled:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["TOPIC", "DEPTH", "IN/S", "FLAGS"]);
        table.row(vec!["a".into(), 1_234_567u64.into(), Some(Rate(0.25)).into(), "".into()]);
        table.row(vec!["orders".into(), 7u64.into(), None.into(), "P".into()]);
        table
    }

    #[test]
    fn terminal_gets_aligned_columns() {
        let text = table().aligned();
        assert_eq!(text, "TOPIC   DEPTH  IN/S  FLAGS\na        1.2M   0.2  -\norders      7     -  P\n");
    }

    #[test]
    fn control_characters_in_names_are_escaped() {
        let mut table = Table::new(&["NODE", "ZONE"]);
        table.row(vec!["a\x1b[2J\tb".into(), "x\ny\u{202e}".into()]);
        let (node, zone) = ("a\\u{1b}[2J\\tb", "x\\ny\\u{202e}");
        assert_eq!(table.aligned(), format!("{:13}  ZONE\n{node}  {zone}\n", "NODE"));
        assert_eq!(table.tab_separated(), format!("NODE\tZONE\n{node}\t{zone}\n"));
    }

    #[test]
    fn programs_get_tabs_and_exact_figures() {
        let text = table().tab_separated();
        assert_eq!(text, "TOPIC\tDEPTH\tIN/S\tFLAGS\na\t1234567\t0.2\t-\norders\t7\t-\tP\n");
    }

    #[test]
    fn figures_are_rounded_with_a_unit() {
        for (number, text) in [
            (0.0, "0"),
            (9_999.0, "9999"),
            (12_345.0, "12.3k"),
            (999_990.0, "1.0M"),
            (2e18, "2.0E"),
            (-5.0, "-5"),
        ] {
            assert_eq!(figure(number, 0), text);
        }
    }
}
