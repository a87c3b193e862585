//! What the library logged, by thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Once;

thread_local! {
    static LINES: RefCell<String> = const { RefCell::new(String::new()) };
    static LOSES: Cell<Option<&'static str>> = const { Cell::new(None) };
}

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        if let Some(lost) = LOSES.get() {
            text = text.replace(lost, "");
        }
        LINES.with_borrow_mut(|lines| lines.push_str(&text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to keep what is logged as an error.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .with_ansi(false)
            .with_writer(|| Lines)
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("nobody else logs");
    });
}

/// Forgets what this thread has logged so far.
pub(crate) fn clear() {
    LINES.with_borrow_mut(String::clear);
}

/// Returns what this thread has logged since.
pub(crate) fn so_far() -> String {
    LINES.with_borrow(String::clone)
}

/// Plants a fault: what this thread logs from now on comes without these words.
pub(crate) fn lose(words: Option<&'static str>) {
    LOSES.set(words);
}

/// Returns a field of a line.
pub(crate) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = line.split_once(&format!("{name}=\""))?;
    value.split_once('"').map(|(value, _)| value)
}
