//! Tables: aligned and rounded for people, tab-separated and exact for programs. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nsq_protocol::printable;
use nsq_protocol::start_at::rfc3339;

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
    /// A moment in nanoseconds since 1970.
    Moment(i64),
    /// An empty cell, shown as `-`.
    None,
}

/// How a table is printed.
#[derive(Debug, Clone, Default)]
pub struct Style {
    /// Aligned columns; otherwise tab-separated ones.
    pub is_aligned: bool,
    /// Whether to round figures.
    pub rounds: bool,
    /// Whether to print the headings.
    pub header: bool,
    /// Lines are cut to this width.
    pub width: Option<usize>,
    /// What begins and ends bold headings.
    pub bold: Option<(&'static str, &'static str)>,
    /// Zone of times; `None` for UTC and full precision.
    pub zone: Option<TimeZone>,
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

    /// The table as text.
    pub fn render(&self, style: &Style) -> String {
        let show = |cell: &Cell| match cell {
            Cell::Count(count) if style.rounds => figure(*count as f64, 0),
            Cell::PerSecond(rate) if style.rounds => figure(rate.0, usize::from(rate.0 < 10.0)),
            Cell::Moment(timestamp_ns) => moment(*timestamp_ns, style.zone.as_ref()),
            other => exact(other),
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(show).collect()).collect();
        if style.is_aligned { self.align(&rows, style) } else { self.separate(&rows, style) }
    }

    fn align(&self, rows: &[Vec<String>], style: &Style) -> String {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            let heading = if style.header { self.headings[column].len() } else { 0 };
            cells.chain([heading]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let is_number = |column: usize| {
            self.rows.iter().any(|row| matches!(row[column], Cell::Count(_) | Cell::PerSecond(_)))
        };
        let right: Vec<bool> = (0..self.headings.len()).map(is_number).collect();

        let mut text = String::new();
        let headings: Vec<String> = self.headings.iter().map(|&heading| heading.to_owned()).collect();
        let headings = style.header.then_some(&headings);
        for (row, is_heading) in
            headings.map(|row| (row, true)).into_iter().chain(rows.iter().map(|row| (row, false)))
        {
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
            let line = cut(line.trim_end(), style.width);
            match style.bold {
                Some((begin, end)) if is_heading => text += &format!("{begin}{line}{end}"),
                _ => text += &line,
            }
            text.push('\n');
        }
        text
    }

    fn separate(&self, rows: &[Vec<String>], style: &Style) -> String {
        let mut text = String::new();
        if style.header {
            text += &self.headings.join("\t");
            text.push('\n');
        }
        for row in rows {
            text += &row.join("\t");
            text.push('\n');
        }
        text
    }

    /// For programs: tab-separated cells, exact figures.
    #[cfg(test)]
    pub fn tab_separated(&self) -> String {
        self.render(&Style { header: true, ..Style::default() })
    }
}

/// A moment in nanoseconds since 1970: in seconds of a zone, or else RFC 3339 in UTC.
pub fn moment(timestamp_ns: i64, zone: Option<&TimeZone>) -> String {
    let local = zone.and_then(|zone| {
        let moment = Timestamp::from_nanosecond(timestamp_ns.into()).ok()?;
        Some(moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string())
    });
    local.unwrap_or_else(|| rfc3339(timestamp_ns))
}

fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if width > 1 && line.chars().count() > width => {
            line.chars().take(width - 1).chain(['…']).collect()
        }
        _ => line.to_owned(),
    }
}

fn exact(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) if text.is_empty() => "-".to_owned(),
        Cell::Text(text) => printable(text).into_owned(),
        Cell::Count(count) => count.to_string(),
        Cell::PerSecond(rate) => format!("{:.1}", rate.0),
        Cell::Moment(timestamp_ns) => rfc3339(*timestamp_ns),
        Cell::None => "-".to_owned(),
    }
}

/// Rounds to three or four digits and a unit: `1234` stays, `12345` becomes `12.3k`.
pub fn figure(number: f64, decimals: usize) -> String {
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

    fn aligned() -> Style {
        Style { is_aligned: true, rounds: true, header: true, ..Style::default() }
    }

    #[test]
    fn lines_are_cut_to_the_terminal_and_headings_are_optional() {
        let text = table().render(&Style { width: Some(12), bold: Some(("<", ">")), ..aligned() });
        assert_eq!(text, "<TOPIC   DEP…>\na        1.…\norders     …\n");
        let text = table().render(&Style { rounds: false, header: false, ..aligned() });
        assert_eq!(text, "a       1234567  0.2  -\norders        7    -  P\n");
    }

    #[test]
    fn moments_are_local_or_utc() {
        let mut table = Table::new(&["AT"]);
        table.row(vec![Cell::Moment(1_795_000_000_123_456_789)]);
        assert_eq!(table.tab_separated(), "AT\n2026-11-18T11:06:40.123456789Z\n");
        let zone = Some(TimeZone::fixed(jiff::tz::offset(2)));
        assert_eq!(table.render(&Style { zone, ..aligned() }), "AT\n2026-11-18 13:06:40\n");
    }

    #[test]
    fn terminal_gets_aligned_columns() {
        let text = table().render(&aligned());
        assert_eq!(text, "TOPIC   DEPTH  IN/S  FLAGS\na        1.2M   0.2  -\norders      7     -  P\n");
    }

    #[test]
    fn control_characters_in_names_are_escaped() {
        let mut table = Table::new(&["NODE", "ZONE"]);
        table.row(vec!["a\x1b[2J\tb".into(), "x\ny\u{202e}".into()]);
        let (node, zone) = ("a\\u{1b}[2J\\tb", "x\\ny\\u{202e}");
        assert_eq!(table.render(&aligned()), format!("{:13}  ZONE\n{node}  {zone}\n", "NODE"));
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
