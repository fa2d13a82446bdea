//! What is printed: for people in columns, for programs as JSON.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;

use crate::args::Format;

/// Whether and how to colour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// Colours for standard output, if a person sees them and does not mind.
    pub(crate) fn stdout(no_color: bool) -> Self {
        Self { on: io::stdout().is_terminal() && !no_color && !is_set("NO_COLOR") }
    }

    /// Colours for standard error.
    pub(crate) fn stderr(no_color: bool) -> Self {
        Self { on: io::stderr().is_terminal() && !no_color && !is_set("NO_COLOR") }
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self { on: false }
    }

    /// What counts.
    pub(crate) fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What may be overlooked.
    pub(crate) fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// What is well.
    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What is not.
    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[m") } else { text.to_owned() }
    }
}

/// Prints an answer: as JSON, or as `text` makes it.
pub(crate) fn answer<T: Serialize + ?Sized>(format: Format, value: &T, text: impl FnOnce() -> String) {
    let mut printed = match format {
        Format::Json => serde_json::to_string_pretty(value).expect("an answer is plain data"),
        Format::Text => text(),
    };
    if !printed.is_empty() && !printed.ends_with('\n') {
        printed.push('\n');
    }
    line(&printed);
}

/// Writes to standard output. A reader that has gone, as `head` does, is nobody's failure.
pub(crate) fn line(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Lays rows out in columns, two spaces apart.
pub(crate) fn table(paint: Paint, head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let lay = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![paint.faint(&lay(&mut head.iter().copied()))];
    lines.extend(rows.iter().map(|row| lay(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// How long ago something was, as a person would say it.
pub(crate) fn age(then_unix_millis: u64, now_unix_millis: u64) -> String {
    let seconds = Duration::from_millis(now_unix_millis.saturating_sub(then_unix_millis)).as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = [vec!["ä".to_owned(), "x".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(Paint::none(), &["A", "B"], &rows), "A     B\nä     x\nlong");
    }

    #[test]
    fn ages_are_rounded_down_to_what_people_say() {
        let ages = [5, 119, 120, 7_200, 200_000].map(|seconds| age(0, seconds * 1000));
        assert_eq!(ages, ["5s", "119s", "2m", "2h", "2d"]);
    }
}
