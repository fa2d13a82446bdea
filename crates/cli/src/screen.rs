//! What a terminal's output has done to the local screen, as far as it must be known: whether something of ours may be
//! written in between, and what has to be undone when we leave.

use std::num::NonZeroU16;

use vt100::Parser;

/// Follows what is written to the local terminal.
pub(crate) struct Screen {
    parser: Parser,
    inside: Inside,
}

/// What the output ended inside of. Written into the middle of a sequence, ours would break both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Inside {
    /// Between whole characters and sequences.
    #[default]
    Nothing,
    /// After ESC, or in an escape sequence's intermediate bytes.
    Escape,
    /// In a control sequence.
    Control,
    /// In a string, such as a title, which ends with BEL or ST.
    String,
    /// In a string after ESC, which may begin its ST.
    StringEscape,
    /// In a character of several bytes, with that many to come.
    Character(u8),
}

impl Screen {
    /// Follows a terminal of this size.
    pub(crate) fn new(rows: u16, cols: u16) -> Self {
        let (rows, cols) = (at_least_one(rows), at_least_one(cols));
        Self { parser: Parser::new(rows, cols, 0), inside: Inside::Nothing }
    }

    /// The terminal has another size now.
    pub(crate) fn resize(&mut self, rows: u16, cols: u16) {
        self.parser.set_size(at_least_one(rows), at_least_one(cols));
    }

    /// These bytes are written to the terminal.
    pub(crate) fn process(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        self.inside = bytes.iter().fold(self.inside, |inside, &byte| inside.after(byte));
    }

    /// Whether something may be written in between.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.inside == Inside::Nothing
    }

    /// What gives the terminal back as a program should leave it: empty if the program did.
    pub(crate) fn undo(&self) -> String {
        let plain = Parser::new(at_least_one(1), at_least_one(1), 0);
        let (now, plain) = (self.parser.screen(), plain.screen());
        // CAN ends a sequence that was cut in the middle.
        let mut undo = if self.is_at_rest() { String::new() } else { "\x18".to_owned() };
        if now.alternate_screen() {
            undo.push_str("\x1b[?1049l");
        }
        if now.hide_cursor() {
            undo.push_str("\x1b[?25h");
        }
        undo.push_str(&plain.input_mode_diff(now));
        if now.attributes_formatted() != plain.attributes_formatted() {
            undo.push_str("\x1b[m");
        }
        undo
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("inside", &self.inside).finish_non_exhaustive()
    }
}

impl Inside {
    const fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::String, 0x1b) => Self::StringEscape,
            (Self::String | Self::StringEscape, 0x07 | 0x18 | 0x1a) | (Self::StringEscape, b'\\') => Self::Nothing,
            (Self::String | Self::StringEscape, _) => Self::String,
            (_, 0x1b) => Self::Escape,
            (_, 0x18 | 0x1a) => Self::Nothing,
            (Self::Escape, b'[') => Self::Control,
            (Self::Escape, b']' | b'P' | b'X' | b'^' | b'_') => Self::String,
            (Self::Escape, 0x00..=0x2f) => Self::Escape,
            (Self::Control, 0x00..=0x3f) => Self::Control,
            (Self::Character(left @ 2..), 0x80..=0xbf) => Self::Character(left - 1),
            (Self::Nothing | Self::Character(_), 0xc0..=0xdf) => Self::Character(1),
            (Self::Nothing | Self::Character(_), 0xe0..=0xef) => Self::Character(2),
            (Self::Nothing | Self::Character(_), 0xf0..=0xf7) => Self::Character(3),
            (Self::Nothing | Self::Escape | Self::Control | Self::Character(_), _) => Self::Nothing,
        }
    }
}

/// What makes the terminal keep its title, to be brought back by [`POP_TITLE`].
pub(crate) const PUSH_TITLE: &str = "\x1b[22;2t";

/// What gives the terminal another title.
pub(crate) fn set_title(text: &str) -> String {
    format!("\x1b]2;{}\x07", text.replace(char::is_control, ""))
}

/// What brings the title from before back.
pub(crate) const POP_TITLE: &str = "\x1b[23;2t";

fn at_least_one(size: u16) -> NonZeroU16 {
    NonZeroU16::new(size).unwrap_or(NonZeroU16::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(bytes: &[u8]) -> Screen {
        let mut screen = Screen::new(24, 80);
        bytes.chunks(1).for_each(|byte| screen.process(byte));
        screen
    }

    #[test]
    fn nothing_is_written_into_the_middle_of_anything() {
        for whole in [
            "ls\r\n",
            "\x1b[31m",
            "\x1b[?25l",
            "\x1b]2;title\x07",
            "\x1b]2;t\x1b\\",
            "\x1b(B",
            "\x1bPq#0\x1b\\",
            "ä",
            "€",
            "😀",
            "\x1b[3\x18",
        ] {
            assert!(after(whole.as_bytes()).is_at_rest(), "{whole:?}");
        }
        for part in [
            &b"\x1b"[..],
            b"\x1b[31",
            b"\x1b[?2",
            b"\x1b]2;ti",
            b"\x1b]2;t\x1b",
            b"\x1b(",
            b"\xc3",
            b"\xe2\x82",
            b"\xf0\x9f\x98",
        ] {
            assert!(!after(part).is_at_rest(), "{part:?}");
        }
    }

    #[test]
    fn a_program_that_cleaned_up_leaves_nothing_to_undo() {
        assert_eq!(after(b"\x1b[?1049h\x1b[?2004h\x1b[31mred\x1b[m\x1b[?2004l\x1b[?1049l").undo(), "");
    }

    #[test]
    fn what_a_program_left_behind_is_undone() {
        let undo = after(b"\x1b[?1049h\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b[?25l\x1b[31m").undo();
        for part in ["\x1b[?1049l", "\x1b[?1000l", "\x1b[?1006l", "\x1b[?2004l", "\x1b[?25h", "\x1b[m"] {
            assert!(undo.contains(part), "{part:?} is missing in {undo:?}");
        }
        assert!(after(undo.as_bytes()).undo().is_empty());
    }

    #[test]
    fn a_title_carries_no_control_characters() {
        assert_eq!(set_title("a\x07b\x1b[2J"), "\x1b]2;ab[2J\x07");
    }
}
