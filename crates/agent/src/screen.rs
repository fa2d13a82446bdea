//! What a terminal shows: a model that is fed everything the terminal's programs write, so that a viewer who comes late
//! can be shown the present screen instead of the whole past.
//!
//! The cells, colours and most modes are the vt100 crate's. What it leaves out is added here, because a redraw without it
//! would show another screen than the one that is there: sequences cut in two (see [`crate::scan`]), line drawing, insert
//! mode and switched-off wrapping, the screen behind the alternate one, the scroll region, the saved cursor, and the modes
//! that concern only the viewer's own terminal. Not kept are hyperlinks, redefined colours, tab stops, and the attributes
//! blink, conceal and strike-through.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::pty::Size;
use crate::scan::{Scanner, Token};

/// Rows that scrolled off and are kept, so that a terminal which grows shows again what viewers' own terminals do.
const SCROLLBACK: usize = 64;

/// The most modes remembered that only concern the viewer's terminal: far more than any program sets.
const MODES_MAX: usize = 32;

/// The most pushed keyboard settings that are remembered.
const KEYBOARD_MAX: usize = 16;

/// Brings a terminal of unknown state to the state in which a program finds a new one. Unlike a full reset it leaves the
/// user's scrollback alone.
const FRESH: &str = "\x1b[!p\x1b[?1049l\x1b[!p\x1b[?7h\x1b[4l\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\
                     \x1b[?1004l\x1b[?2004l";

/// What must hold while cells are drawn: no region, no other character set.
const NEUTRAL: &str = "\x1b[?6l\x1b[r\x1b(B\x1b)B\x0f";

/// A redraw, and where in the output log the live bytes go on from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redraw {
    /// What makes a terminal show the screen.
    pub(crate) bytes: Vec<u8>,
    /// The offset of the first byte that is not in it.
    pub(crate) offset: u64,
}

/// The screen of one terminal.
pub(crate) struct Screen {
    scanner: Scanner,
    terminal: Terminal,
    /// How many bytes of output were taken.
    taken: u64,
    /// How often the model had to begin anew.
    failures: u32,
}

struct Terminal {
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

impl Screen {
    /// An empty screen.
    pub(crate) fn new(size: Size) -> Self {
        Self { scanner: Scanner::default(), terminal: Terminal::new(size), taken: 0, failures: 0 }
    }

    /// Takes the next output.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.taken += bytes.len() as u64;
        self.guarded(|terminal, scanner| scanner.scan(bytes, |token| terminal.apply(token)));
    }

    /// The terminal has another size now.
    pub(crate) fn resize(&mut self, size: Size) {
        self.guarded(|terminal, _| terminal.parser.set_size(size.rows(), size.cols()));
    }

    /// What shows the present screen, and the offset from which the output goes on.
    pub(crate) fn redraw(&mut self) -> Redraw {
        let mut out = String::from(FRESH);
        self.guarded(|terminal, _| terminal.redraw(&mut out));
        out.push_str(self.scanner.opener());
        Redraw { bytes: out.into_bytes(), offset: self.taken - self.scanner.held() as u64 }
    }

    /// Works on the model. The bytes it was fed are a stranger's and its code is another's: what it cannot bear must not
    /// take all processes along.
    fn guarded(&mut self, work: impl FnOnce(&mut Terminal, &mut Scanner)) {
        let Self { scanner, terminal, .. } = self;
        if catch_unwind(AssertUnwindSafe(|| work(terminal, scanner))).is_err() {
            tracing::error!("the screen model failed; it begins anew");
            self.terminal = Terminal::new(self.terminal.size());
            self.failures += 1;
        }
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("taken", &self.taken).field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl Terminal {
    fn new(size: Size) -> Self {
        let parser = vt100::Parser::new_with_callbacks(size.rows(), size.cols(), SCROLLBACK, Extras::default());
        Self { parser, charsets: Charsets::default() }
    }

    fn size(&self) -> Size {
        let (rows, cols) = self.parser.screen().size();
        Size::of(rows, cols)
    }

    fn apply(&mut self, token: Token<'_>) {
        match token {
            Token::Text(text) => self.text(text),
            Token::Sequence(sequence) => self.sequence(sequence),
        }
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
        const SHIFT_OUT: u8 = 0x0e;
        const SHIFT_IN: u8 = 0x0f;
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

    fn redraw(&self, out: &mut String) {
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

/// One of a terminal's two grids as it must be drawn, with what the vt100 crate knows of it but does not tell: a copy is
/// made to show it.
struct Drawn {
    /// The grid is the one in use.
    screen: vt100::Screen,
    /// The same after the saved cursor was restored.
    saved: vt100::Screen,
    /// The first and last row that scroll, unless all do.
    region: Option<(u16, u16)>,
}

impl Drawn {
    fn new(screen: vt100::Screen) -> Self {
        let saved = altered(&screen, "\x1b8");
        let (top, _) = altered(&screen, "\x1b[?6h").cursor_position();
        let (bottom, _) = altered(&screen, "\x1b[?6h\x1b[9999;1H").cursor_position();
        let region = (top > 0 || bottom + 1 < screen.size().0.get()).then_some((top, bottom));
        Self { screen, saved, region }
    }

    /// Whether the saved cursor is the cursor.
    fn is_cursor_saved(&self) -> bool {
        self.saved.cursor_position() == self.screen.cursor_position()
            && has_origin_mode(&self.saved) == has_origin_mode(&self.screen)
    }

    fn draw(&self, out: &mut String) {
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

/// A copy of the screen after it was fed something.
fn altered(screen: &vt100::Screen, input: &str) -> vt100::Screen {
    let (rows, cols) = screen.size();
    let mut parser = vt100::Parser::new(rows, cols, 0);
    *parser.screen_mut() = screen.clone();
    parser.process(input.as_bytes());
    parser.screen().clone()
}

/// Whether rows are counted from the scroll region's first; not to be told apart on a screen too small for a region.
fn has_origin_mode(screen: &vt100::Screen) -> bool {
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

fn move_to(row: u16, col: u16) -> String {
    format!("\x1b[{};{}H", row + 1, col + 1)
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(rows: u16, cols: u16) -> Size {
        Size::of(rows.try_into().unwrap(), cols.try_into().unwrap())
    }

    fn fed(rows: u16, cols: u16, output: &[u8]) -> Screen {
        let mut screen = Screen::new(size(rows, cols));
        screen.feed(output);
        screen
    }

    /// Everything a viewer could see of a grid, or a program could find out later.
    fn grid(screen: &vt100::Screen) -> String {
        let (rows, cols) = screen.size();
        let drawn = Drawn::new(screen.clone());
        let mut seen = format!(
            "cursor {:?} attributes {:?} origin {} saved {:?} {:?} {} region {:?}\n",
            screen.cursor_position(),
            screen.attributes_formatted(),
            has_origin_mode(screen),
            drawn.saved.cursor_position(),
            drawn.saved.attributes_formatted(),
            has_origin_mode(&drawn.saved),
            drawn.region,
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

    fn everything(screen: &Screen) -> String {
        let shown = screen.terminal.parser.screen();
        let modes = (
            (shown.alternate_screen(), shown.application_keypad(), shown.application_cursor(), shown.hide_cursor()),
            (shown.bracketed_paste(), shown.mouse_protocol_mode(), shown.mouse_protocol_encoding()),
            (shown.cursor_style(), screen.terminal.charsets, screen.terminal.parser.callbacks()),
        );
        let behind = shown.alternate_screen().then(|| grid(&altered(shown, "\x1b[?47l")));
        format!("{modes:?}\n{}\nbehind: {}", grid(shown), behind.unwrap_or_default())
    }

    /// A terminal that was used for something else before.
    fn used(rows: u16, cols: u16) -> Screen {
        fed(
            rows,
            cols,
            b"old\x1b[?1049h\x1b[31m\x1b[2;4r\x1b[?6h\x1b[?1002;1006;2004;1004h\x1b[?7l\x1b[4h\x1b(0\x0e\x1b[?25l",
        )
    }

    /// With origin mode on, no terminal takes its cursor out of the scroll region; the model does.
    fn cursor_can_be_placed(screen: &vt100::Screen) -> bool {
        let drawn = Drawn::new(screen.clone());
        let is_inside = |screen: &vt100::Screen| {
            let (row, _) = screen.cursor_position();
            !has_origin_mode(screen) || drawn.region.is_none_or(|(top, bottom)| (top..=bottom).contains(&row))
        };
        is_inside(screen) && (!screen.alternate_screen() || cursor_can_be_placed(&altered(screen, "\x1b[?47l")))
    }

    fn same_after_redraw_at(rows: u16, cols: u16, output: &[u8], cut: usize) -> Result<(), TestCaseError> {
        let whole = fed(rows, cols, output);
        let mut at_cut = fed(rows, cols, &output[..cut]);
        prop_assume!(cursor_can_be_placed(at_cut.terminal.parser.screen()));
        let redraw = at_cut.redraw();
        prop_assert!(redraw.offset <= cut as u64);
        let rest = &output[redraw.offset as usize..];
        for mut late in [Screen::new(size(rows, cols)), used(rows, cols)] {
            late.terminal.parser.callbacks_mut().title = None;
            late.feed(&redraw.bytes);
            late.feed(rest);
            prop_assert_eq!(
                everything(&late),
                everything(&whole),
                "cut at {} of {:?}",
                cut,
                String::from_utf8_lossy(output)
            );
        }
        Ok(())
    }

    fn any_output() -> impl Strategy<Value = Vec<u8>> {
        let number = 1u16..12;
        let piece = prop_oneof![
            6 => "[ -~]{1,14}",
            2 => "[a-z\u{e4}\u{4e2d}\u{2500}]{1,5}",
            // As programs do it: right behind the character to repeat.
            1 => ("[a-z]", number.clone()).prop_map(|(char, n)| format!("{char}\x1b[{n}b")),
            2 => Just("\r\n".to_owned()),
            1 => prop_oneof![Just("\x08"), Just("\t"), Just("\n"), Just("\x0e"), Just("\x0f")].prop_map(str::to_owned),
            3 => (number.clone(), number.clone()).prop_map(|(row, col)| format!("\x1b[{row};{col}H")),
            2 => (30u8..38, 40u8..48).prop_map(|(text, back)| format!("\x1b[{text};{back}m")),
            1 => any::<(u8, u8, u8)>().prop_map(|(r, g, b)| format!("\x1b[38;2;{r};{g};{b};1;4m")),
            3 => (number.clone(), "[ABCDEFGJKLMPSTX@d]").prop_map(|(n, action)| format!("\x1b[{n}{action}")),
            2 => prop_oneof![Just("J"), Just("K"), Just("1J"), Just("2K"), Just("m"), Just("7m"), Just("r")]
                .prop_map(|action| format!("\x1b[{action}")),
            1 => (number.clone(), number).prop_map(|(top, more)| format!("\x1b[{top};{}r", top + more)),
            2 => prop_oneof![Just("7"), Just("8"), Just("M"), Just("="), Just(">"), Just("(0"), Just("(B"), Just(")0")]
                .prop_map(|action| format!("\x1b{action}")),
            3 => ("[hl]", prop_oneof![
                Just("?1"), Just("?6"), Just("?7"), Just("?25"), Just("?1000"), Just("?1002"), Just("?1004"), Just("?1006"),
                Just("?1049"), Just("?2004"), Just("4")
            ]).prop_map(|(action, mode)| format!("\x1b[{mode}{action}")),
            // What was left on the alternate screen is not kept; a program that enters it by this name clears it.
            1 => prop_oneof![Just("\x1b[?47h\x1b[!p\x1b[H\x1b[2J"), Just("\x1b[?47l"), Just("\x1b[?1047l")].prop_map(str::to_owned),
            1 => prop_oneof![Just("\x1b]0;a title\x07"), Just("\x1b]2;b\x1b\\"), Just("\x1bP1$q\x1b\\"), Just("\x1b[5 q"),
                Just("\x1b[>4;2m"), Just("\x1b[>1u"), Just("\x1b[<u"), Just("\x1bc"), Just("\x1b[!p")].prop_map(str::to_owned),
        ];
        proptest::collection::vec(piece, 1..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn a_redraw_and_the_rest_show_what_everything_shows(output in any_output(), cut: prop::sample::Index) {
            let cut = cut.index(output.len() + 1);
            same_after_redraw_at(8, 20, &output, cut)?;
        }

        #[test]
        fn no_output_makes_the_model_fail(output: Vec<u8>, rows in 1u16..5, cols in 1u16..9) {
            let mut screen = fed(rows, cols, &output);
            screen.redraw();
            screen.resize(size(cols, rows));
            screen.redraw();
            prop_assert_eq!(screen.failures, 0);
        }
    }
}
