//! The model of one terminal: the vt100 crate's, and what that leaves out.
//!
//! Programs use line drawing, insert mode and switched-off wrapping, and set modes that concern only the viewer's own
//! terminal. A redraw without these would show another screen than the one that is there. Not kept are hyperlinks,
//! redefined colours, tab stops, and the attributes blink, conceal and strike-through.

use std::collections::BTreeMap;

use crate::drawn::{Drawn, altered, move_to, push, scroll_region};
use crate::pty::Size;
use crate::scan::Token;

/// Rows that scrolled off and are kept, so that a terminal which grows shows again what viewers' own terminals do.
const SCROLLBACK: usize = 64;

/// How much text at once is a flood: less is drawn faster than it is looked at.
const FLOOD: usize = 4 * 1024;

const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;

/// The most modes remembered that only concern the viewer's terminal: far more than any program sets.
const MODES_MAX: usize = 32;

/// The most pushed keyboard settings that are remembered.
const KEYBOARD_MAX: usize = 16;

/// A terminal's screen and modes.
pub(crate) struct Terminal {
    parser: vt100::Parser<Extras>,
    charsets: Charsets,
}

/// The character sets in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Charsets {
    /// Whether G0 and G1 are line drawing.
    line_drawing: [bool; 2],
    /// Which of the two is in use.
    shifted: bool,
}

/// What the vt100 crate does not keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extras {
    title: Option<String>,
    /// Private modes that differ from a new terminal's.
    modes: BTreeMap<u16, bool>,
    insert: bool,
    modify_other_keys: Option<u16>,
    /// The keyboard settings that were pushed, the present one last.
    keyboard: Vec<u16>,
}

impl Terminal {
    /// A new terminal.
    pub(crate) fn new(size: Size) -> Self {
        let parser = vt100::Parser::new_with_callbacks(size.rows(), size.cols(), SCROLLBACK, Extras::default());
        Self { parser, charsets: Charsets::default() }
    }

    /// Its size.
    pub(crate) fn size(&self) -> Size {
        let (rows, cols) = self.parser.screen().size();
        Size::of(rows, cols)
    }

    /// Takes the next output.
    pub(crate) fn apply(&mut self, token: Token<'_>) {
        match token {
            Token::Text(text) => self.text(text),
            Token::Sequence(sequence) => self.sequence(sequence),
        }
    }

    /// Gives it another size.
    pub(crate) fn resize(&mut self, size: Size) {
        self.parser.set_size(size.rows(), size.cols());
    }

    fn sequence(&mut self, sequence: &[u8]) {
        match sequence {
            [0x1b, b'(', set] => self.charsets.line_drawing[0] = *set == b'0',
            [0x1b, b')', set] => self.charsets.line_drawing[1] = *set == b'0',
            b"\x1bc" => {
                self.charsets = Charsets::default();
                *self.parser.callbacks_mut() = Extras::default();
                self.parser.process(sequence);
            }
            b"\x1b[!p" => self.soft_reset(),
            // The alternate screen by its other names.
            b"\x1b[?1047h" if !self.parser.screen().alternate_screen() => self.parser.process(b"\x1b[?47h\x1b[2J"),
            b"\x1b[?1047l" => self.parser.process(b"\x1b[?47l"),
            b"\x1b[?1048h" => self.parser.process(b"\x1b7"),
            b"\x1b[?1048l" => self.parser.process(b"\x1b8"),
            _ => self.parser.process(sequence),
        }
    }

    /// As a new terminal, with its cells and its cursor's place.
    fn soft_reset(&mut self) {
        self.charsets = Charsets::default();
        let extras = self.parser.callbacks_mut();
        *extras = Extras { title: extras.title.take(), ..Extras::default() };
        let (row, col) = self.parser.screen().cursor_position();
        self.parser.process(b"\x1b[?25h\x1b[?1l\x1b>\x1b[?6l\x1b[r\x1b[H\x1b[m\x1b7");
        self.parser.process(move_to(row, col).as_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        let text = self.pass_over_what_scrolls_off(text);
        for piece in text.split_inclusive(|byte| matches!(*byte, SHIFT_OUT | SHIFT_IN)) {
            match piece.split_last() {
                Some((&shift @ (SHIFT_OUT | SHIFT_IN), before)) => {
                    self.draw(before);
                    self.charsets.shifted = shift == SHIFT_OUT;
                }
                _ => self.draw(piece),
            }
        }
    }

    /// Lines of a flood that scroll off before anybody can see them need not be drawn: the rest follows, from the last
    /// row on.
    fn pass_over_what_scrolls_off<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        if text.len() < FLOOD {
            return text;
        }
        let screen = self.parser.screen();
        let rows = screen.size().0.get();
        let mut ends = text.windows(2).enumerate().rev().filter(|(_, pair)| *pair == b"\r\n").map(|(at, _)| at + 2);
        let Some(passed) = ends.nth(usize::from(rows) + SCROLLBACK) else { return text };
        if scroll_region(screen).is_some() {
            return text;
        }
        let (passed, rest) = text.split_at(passed);
        if let Some(shift) = passed.iter().rfind(|byte| matches!(**byte, SHIFT_OUT | SHIFT_IN)) {
            self.charsets.shifted = *shift == SHIFT_OUT;
        }
        self.parser.process(move_to(rows - 1, 0).as_bytes());
        rest
    }

    fn draw(&mut self, text: &[u8]) {
        if !self.charsets.draws_lines() && self.parser.callbacks().draws_plainly() {
            return self.parser.process(text);
        }
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().for_each(|char| self.put(char));
            self.parser.process(chunk.invalid());
        }
    }

    /// Draws one character in a mode that the vt100 crate does not know.
    fn put(&mut self, char: char) {
        let char = if self.charsets.draws_lines() { line_drawing(char) } else { char };
        let (_, cols) = self.parser.screen().size();
        let (_, col) = self.parser.screen().cursor_position();
        let is_drawn = char >= ' ' && char != '\x7f';
        if is_drawn && col >= cols.get() && !self.parser.callbacks().wraps() {
            self.parser.process(format!("\x1b[{cols}G").as_bytes());
        }
        if is_drawn && col < cols.get() && self.parser.callbacks().insert {
            self.parser.process(b"\x1b[@");
        }
        self.parser.process(char.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// Appends what makes a fresh terminal show the same.
    pub(crate) fn redraw(&self, out: &mut String) {
        let screen = self.parser.screen();
        if screen.alternate_screen() {
            let primary = Drawn::new(altered(screen, "\x1b[?47l"));
            primary.draw(out);
            // A terminal that only knows the usual name of the alternate screen saves the cursor on the way.
            out.push_str(if primary.is_cursor_saved() { "\x1b[?1049h" } else { "\x1b[?47h" });
        }
        Drawn::new(screen.clone()).draw(out);
        out.push_str(&screen.input_mode_formatted());
        self.charsets.write(out);
        self.parser.callbacks().write(out);
    }
}

impl Charsets {
    const fn draws_lines(self) -> bool {
        self.line_drawing[self.shifted as usize]
    }

    fn write(self, out: &mut String) {
        for (is_set, designate) in self.line_drawing.into_iter().zip(["\x1b(0", "\x1b)0"]) {
            out.push_str(if is_set { designate } else { "" });
        }
        out.push_str(if self.shifted { "\x0e" } else { "" });
    }
}

impl Extras {
    const WRAP: u16 = 7;

    fn wraps(&self) -> bool {
        !self.modes.contains_key(&Self::WRAP)
    }

    fn draws_plainly(&self) -> bool {
        self.wraps() && !self.insert
    }

    fn set_mode(&mut self, mode: u16, is_on: bool) {
        // Those the vt100 crate keeps; those that do something once (132 columns, saving the cursor); and the one that
        // holds back drawing until it is switched off again.
        const OTHERS: [u16; 17] =
            [1, 3, 6, 9, 25, 47, 1000, 1002, 1003, 1005, 1006, 1047, 1048, 1049, 2004, 2026, 2027];
        const ON_AT_FIRST: [u16; 3] = [Extras::WRAP, 8, 1034];
        if OTHERS.contains(&mode) {
            return;
        }
        if is_on == ON_AT_FIRST.contains(&mode) {
            self.modes.remove(&mode);
        } else if self.modes.len() < MODES_MAX {
            self.modes.insert(mode, is_on);
        }
    }

    fn set_keyboard(&mut self, action: u8, flags: u16) {
        match action {
            b'>' if self.keyboard.len() < KEYBOARD_MAX => self.keyboard.push(flags),
            b'<' => self.keyboard.truncate(self.keyboard.len().saturating_sub(usize::from(flags.max(1)))),
            b'=' => {
                self.keyboard.pop();
                self.keyboard.push(flags);
            }
            _ => {}
        }
    }

    fn write(&self, out: &mut String) {
        if let Some(title) = &self.title {
            push(out, format_args!("\x1b]2;{title}\x07"));
        }
        for (mode, is_on) in &self.modes {
            push(out, format_args!("\x1b[?{mode}{}", if *is_on { 'h' } else { 'l' }));
        }
        if self.insert {
            out.push_str("\x1b[4h");
        }
        if let Some(level) = self.modify_other_keys {
            push(out, format_args!("\x1b[>4;{level}m"));
        }
        for flags in &self.keyboard {
            push(out, format_args!("\x1b[>{flags}u"));
        }
    }
}

impl vt100::Callbacks for Extras {
    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        self.title = Some(String::from_utf8_lossy(title).into_owned());
    }

    fn unhandled_csi(
        &mut self,
        _: &mut vt100::Screen,
        first: Option<u8>,
        _: Option<u8>,
        params: &[&[u16]],
        action: char,
    ) {
        let number = |at: usize| params.get(at).and_then(|param| param.first()).copied();
        match (first, action) {
            (Some(b'?'), 'h' | 'l') => {
                params.iter().filter_map(|param| param.first()).for_each(|&mode| self.set_mode(mode, action == 'h'));
            }
            (None, 'h' | 'l') if number(0) == Some(4) => self.insert = action == 'h',
            (Some(b'>'), 'm') if number(0) == Some(4) => self.modify_other_keys = number(1).filter(|&level| level > 0),
            (Some(b'>'), 'n') if number(0) == Some(4) => self.modify_other_keys = None,
            (Some(way @ (b'>' | b'<' | b'=')), 'u') => self.set_keyboard(way, number(0).unwrap_or(0)),
            _ => {}
        }
    }
}

/// The DEC special graphics set.
fn line_drawing(char: char) -> char {
    const FROM: char = '_';
    const DRAWN: [char; 32] = [
        ' ', '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─', '⎼', '⎽', '├',
        '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
    ];
    (char as usize).checked_sub(FROM as usize).and_then(|at| DRAWN.get(at)).copied().unwrap_or(char)
}

/// What tests compare.
#[cfg(test)]
impl Terminal {
    /// Everything a viewer could see, or a program could find out later.
    pub(crate) fn everything(&self) -> String {
        let shown = self.parser.screen();
        let modes = (
            (shown.alternate_screen(), shown.application_keypad(), shown.application_cursor(), shown.hide_cursor()),
            (shown.bracketed_paste(), shown.mouse_protocol_mode(), shown.mouse_protocol_encoding()),
            (shown.cursor_style(), self.charsets, self.parser.callbacks()),
        );
        let behind = shown.alternate_screen().then(|| grid(&altered(shown, "\x1b[?47l")));
        format!("{modes:?}\n{}\nbehind: {}", grid(shown), behind.unwrap_or_default())
    }

    /// With origin mode on, no terminal takes its cursor out of the scroll region; the model does.
    pub(crate) fn cursor_can_be_placed(&self) -> bool {
        let shown = self.parser.screen();
        can_be_placed(shown) && (!shown.alternate_screen() || can_be_placed(&altered(shown, "\x1b[?47l")))
    }

    pub(crate) fn forget_title(&mut self) {
        self.parser.callbacks_mut().title = None;
    }
}

#[cfg(test)]
fn can_be_placed(screen: &vt100::Screen) -> bool {
    use crate::drawn::has_origin_mode;
    let (row, _) = screen.cursor_position();
    !has_origin_mode(screen) || scroll_region(screen).is_none_or(|(top, bottom)| (top..=bottom).contains(&row))
}

#[cfg(test)]
fn grid(screen: &vt100::Screen) -> String {
    use crate::drawn::has_origin_mode;
    let (rows, cols) = screen.size();
    let saved = altered(screen, "\x1b8");
    let mut seen = format!(
        "cursor {:?} attributes {:?} origin {} saved {:?} {:?} {} region {:?}\n",
        screen.cursor_position(),
        screen.attributes_formatted(),
        has_origin_mode(screen),
        saved.cursor_position(),
        saved.attributes_formatted(),
        has_origin_mode(&saved),
        scroll_region(screen),
    );
    for (row, col) in (0..rows.get()).flat_map(|row| (0..cols.get()).map(move |col| (row, col))) {
        let cell = screen.cell(row, col).unwrap();
        // A space and nothing look alike.
        let text = if cell.contents() == " " { "" } else { cell.contents() };
        let colours = (cell.fgcolor(), cell.bgcolor());
        let style = [cell.bold(), cell.dim(), cell.italic(), cell.underline(), cell.inverse(), cell.is_wide()];
        let is_plain = colours == (vt100::Color::Default, vt100::Color::Default) && style == [false; 6];
        if !(text.is_empty() && is_plain) {
            push(&mut seen, format_args!("{row},{col} {text:?} {colours:?} {style:?}\n"));
        }
    }
    seen
}
