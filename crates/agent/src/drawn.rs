//! Draws a screen anew: the sequence that brings a fresh terminal to the state of a model.

use std::fmt::Write as _;

/// What must hold while cells are drawn: no region, no other character set.
const NEUTRAL: &str = "\x1b[?6l\x1b[r\x1b(B\x1b)B\x0f";

/// One of a terminal's two grids as it must be drawn, with what the vt100 crate knows of it but does not tell: a copy is
/// made to show it.
pub(crate) struct Drawn {
    /// The grid is the one in use.
    screen: vt100::Screen,
    /// The same after the saved cursor was restored.
    saved: vt100::Screen,
    /// The first and last row that scroll, unless all do.
    region: Option<(u16, u16)>,
}

impl Drawn {
    /// Looks at the grid in use.
    pub(crate) fn new(screen: vt100::Screen) -> Self {
        let saved = altered(&screen, "\x1b8");
        let region = scroll_region(&screen);
        Self { screen, saved, region }
    }

    /// Whether the saved cursor is the cursor.
    pub(crate) fn is_cursor_saved(&self) -> bool {
        self.saved.cursor_position() == self.screen.cursor_position()
            && has_origin_mode(&self.saved) == has_origin_mode(&self.screen)
    }

    /// Draws it, whatever stood there before.
    pub(crate) fn draw(&self, out: &mut String) {
        out.push_str(NEUTRAL);
        out.push_str(&self.screen.contents_formatted());
        // Saved while the whole screen scrolls: a row is then the same row with and without origin mode.
        if has_origin_mode(&self.saved) {
            out.push_str("\x1b[?6h");
        }
        place_cursor(out, &self.screen, self.saved.cursor_position(), 0);
        out.push_str(&self.saved.attributes_formatted());
        out.push_str("\x1b7\x1b[?6l");
        if let Some((top, bottom)) = self.region {
            push(out, format_args!("\x1b[{};{}r", top + 1, bottom + 1));
        }
        let mut first_row = 0;
        if has_origin_mode(&self.screen) {
            out.push_str("\x1b[?6h");
            first_row = self.region.map_or(0, |(top, _)| top);
        }
        self.place_cursor_after_last_char(out, first_row);
        out.push_str(&self.screen.attributes_formatted());
    }

    /// Draws the character before the cursor last if it was the last one drawn: the program may ask to repeat it.
    fn place_cursor_after_last_char(&self, out: &mut String, first_row: u16) {
        let (row, col) = self.screen.cursor_position();
        let last = altered(&self.screen, "\x1b[?6l\x1b[H\x1b[2K\x1b[b");
        let last = last.cell(0, 0).filter(|cell| cell.has_contents());
        let before = last.and_then(|last| col.checked_sub(if last.is_wide() { 2 } else { 1 }));
        let is_last = |at: u16| self.screen.cell(row, at).map(vt100::Cell::contents) == last.map(vt100::Cell::contents);
        match before.filter(|&at| is_last(at)) {
            Some(at) => redraw_cell(out, &self.screen, (row, at), first_row),
            None => place_cursor(out, &self.screen, (row, col), first_row),
        }
    }
}

/// The first and last row that scroll, unless all do.
pub(crate) fn scroll_region(screen: &vt100::Screen) -> Option<(u16, u16)> {
    let (top, _) = altered(screen, "\x1b[?6h").cursor_position();
    let (bottom, _) = altered(screen, "\x1b[?6h\x1b[9999;1H").cursor_position();
    (top > 0 || bottom + 1 < screen.size().0.get()).then_some((top, bottom))
}

/// A copy of the screen after it was fed something.
pub(crate) fn altered(screen: &vt100::Screen, input: &str) -> vt100::Screen {
    let (rows, cols) = screen.size();
    let mut parser = vt100::Parser::new(rows, cols, 0);
    *parser.screen_mut() = screen.clone();
    parser.process(input.as_bytes());
    parser.screen().clone()
}

/// Whether rows are counted from the scroll region's first; not to be told apart on a screen too small for a region.
pub(crate) fn has_origin_mode(screen: &vt100::Screen) -> bool {
    altered(screen, "\x1b[2;3r\x1b[H").cursor_position().0 == 1
}

/// Moves the cursor. Behind the last column it only comes by drawing the last cell again.
fn place_cursor(out: &mut String, screen: &vt100::Screen, (row, col): (u16, u16), first_row: u16) {
    let cols = screen.size().1.get();
    if col < cols {
        return out.push_str(&move_to(row.saturating_sub(first_row), col));
    }
    let last = cols - 1;
    let is_second_half = screen.cell(row, last).is_some_and(vt100::Cell::is_wide_continuation);
    redraw_cell(out, screen, (row, last - u16::from(is_second_half)), first_row);
}

/// Draws one cell again, which leaves the cursor behind it.
fn redraw_cell(out: &mut String, screen: &vt100::Screen, (row, col): (u16, u16), first_row: u16) {
    out.push_str(&move_to(row.saturating_sub(first_row), col));
    out.push_str("\x1b[m");
    out.push_str(&screen.rows_formatted(col, 1).nth(usize::from(row)).unwrap_or_default());
    if screen.cell(row, col).is_none_or(|cell| !cell.has_contents()) {
        out.push(' ');
    }
}

/// The sequence that moves the cursor.
pub(crate) fn move_to(row: u16, col: u16) -> String {
    format!("\x1b[{};{}H", row + 1, col + 1)
}

/// Appends formatted text.
pub(crate) fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}
