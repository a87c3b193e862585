//! Reads headings and tables out of docs/on-disk-format.md.

use std::path::Path;

/// The document's text.
pub(crate) fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/on-disk-format.md");
    std::fs::read_to_string(path).unwrap()
}

/// A table, with its cells trimmed, and without its head.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|');
    line.split('|').map(|cell| cell.trim().to_owned()).collect()
}

impl Table {
    /// The first table below the heading `title`.
    pub(crate) fn find(title: &str) -> Table {
        let text = text();
        let heading =
            |line: &str| line.starts_with('#').then(|| line.trim_matches(['#', ' ']).to_owned());
        let mut lines = text.lines().skip_while(|line| heading(line).as_deref() != Some(title));
        assert!(lines.next().is_some(), "there is no heading '{title}'");
        let below = lines.take_while(|line| heading(line).is_none());
        let mut table =
            below.skip_while(|line| !line.starts_with('|')).take_while(|l| l.starts_with('|'));
        let columns = cells(table.next().unwrap_or_else(|| panic!("no table below '{title}'")));
        assert!(table.next().is_some_and(|line| line.starts_with("|---")), "{title}: no head");
        let rows: Vec<_> = table.map(cells).collect();
        assert!(
            rows.iter().all(|row| row.len() == columns.len()),
            "{title}: rows of different lengths"
        );
        Table { title: title.to_owned(), columns, rows }
    }

    /// The cells of some columns, row by row.
    pub(crate) fn columns<const N: usize>(&self, names: [&str; N]) -> Vec<[&str; N]> {
        let at = names.map(|name| {
            let found = self.columns.iter().position(|column| column == name);
            found.unwrap_or_else(|| panic!("{}: no column '{name}'", self.title))
        });
        self.rows.iter().map(|row| at.map(|column| row[column].as_str())).collect()
    }

    /// The cell of a column in the one row that has `name` in another.
    pub(crate) fn cell(&self, key: &str, name: &str, column: &str) -> &str {
        let rows = self.columns([key, column]);
        let mut found = rows.into_iter().filter(|row| row[0] == name);
        let row = found.next().unwrap_or_else(|| panic!("{}: no row '{name}'", self.title));
        row[1]
    }

    /// Fails unless the table's fields are those of `fields`, in order, at the offsets and with the sizes that
    /// it says, and together are `encoded`.
    pub(crate) fn describes(&self, encoded: &[u8], fields: &[(&str, Vec<u8>)]) {
        let rows = self.columns(["offset", "size", "field"]);
        let documented: Vec<_> = rows.iter().map(|row| row[2]).collect();
        let expected: Vec<_> = fields.iter().map(|field| field.0).collect();
        assert_eq!(documented, expected, "fields of '{}'", self.title);
        let mut at = 0;
        for ([offset, size, field], (_, bytes)) in rows.into_iter().zip(fields) {
            let place = format!("'{field}' of '{}'", self.title);
            if let Ok(offset) = offset.parse::<usize>() {
                assert_eq!(offset, at, "offset of {place}");
            }
            if let Ok(size) = size.parse::<usize>() {
                assert_eq!(size, bytes.len(), "size of {place}");
            }
            let found = encoded.get(at..at + bytes.len());
            assert_eq!(found, Some(bytes.as_slice()), "bytes of {place} at {at}");
            at += bytes.len();
        }
        assert_eq!(at, encoded.len(), "'{}' has more bytes than its fields", self.title);
    }
}

/// Reads a number as the document writes it: `4096`, `2^51`, `2^42 - 1`.
pub(crate) fn number(text: &str) -> u128 {
    let (base, less) = text.split_once(" - ").unwrap_or((text, "0"));
    let value = match base.split_once('^') {
        Some((base, exponent)) => base.parse::<u128>().unwrap().pow(exponent.parse().unwrap()),
        None => base.parse().unwrap_or_else(|_| panic!("'{text}' is no number")),
    };
    value - less.parse::<u128>().unwrap()
}
