//! What commands print: tables, JSON, sizes and times. Everything on standard output goes through here.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::daemon::protocol::VERSION;

use super::failure::Failure;
use super::size::format_size;

/// The flags of every listing.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Listing {
    /// Print a JSON object with a stable schema.
    #[arg(long)]
    pub json: bool,
    /// Print sizes in bytes.
    #[arg(long)]
    pub bytes: bool,
}

impl Listing {
    /// Formats a size as the flags want it.
    pub(super) fn size(self, bytes: u64) -> String {
        if self.bytes { bytes.to_string() } else { format_size(bytes) }
    }
}

/// Writes to standard output; a reader that has gone away is no failure of the command.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new("write to standard output", error))
        }
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Prints `body`, a struct, as a JSON object with `"version"` in it.
pub(super) fn print_json<T: Serialize>(body: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&Versioned { version: VERSION, body });
    let text = text.map_err(|error| Failure::new("print JSON", error))?;
    print(&format!("{text}\n"))
}

/// Prints rows under a header, columns aligned with two spaces between; `right` names the columns
/// of numbers.
pub(super) fn print_table(
    header: &[&str],
    rows: Vec<Vec<String>>,
    right: &[usize],
) -> Result<(), Failure> {
    print(&render(header, rows, right))
}

fn render(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let gap = if index == 0 { 0 } else { 2 };
        column.set_padding((gap, 0));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Formats an RFC 3339 time for people: local time to the second.
pub(super) fn local_time(rfc3339: &str) -> String {
    match rfc3339.parse::<jiff::Timestamp>() {
        Ok(time) => {
            let zoned = time.to_zoned(jiff::tz::TimeZone::system());
            zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
        }
        Err(_) => rfc3339.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_leave_no_blanks_at_the_end() {
        let rows = vec![
            vec!["monday".to_owned(), "1.0 KiB".to_owned(), "x".to_owned()],
            vec!["a b".to_owned(), "12 B".to_owned(), "longer".to_owned()],
        ];
        let text = render(&["NAME", "SIZE", "NOTE"], rows, &[1]);
        assert_eq!(text, "NAME       SIZE  NOTE\nmonday  1.0 KiB  x\na b        12 B  longer\n");
    }

    #[test]
    fn an_odd_time_is_shown_as_it_is() {
        assert_eq!(local_time("yesterday"), "yesterday");
        assert_eq!(local_time("2026-11-20T10:00:00Z").len(), 19);
    }

    #[test]
    fn json_has_a_version() {
        #[derive(Serialize)]
        struct Body {
            rows: Vec<u8>,
        }
        let body = Body { rows: vec![1] };
        let text = serde_json::to_string(&Versioned { version: VERSION, body: &body }).unwrap();
        assert_eq!(text, r#"{"version":1,"rows":[1]}"#);
    }
}
