//! Cuts a terminal's output into text and control sequences.
//!
//! A screen may be asked for after any byte, also in the middle of a sequence. A terminal that is then given the rest of
//! it would show it as text. So the model of the screen is only ever fed whole sequences, and the cut is known.
//!
//! What a program writes is not trusted: a sequence that does not end is let go after a while, never collected.

/// The most bytes of a sequence that are waited for: window titles and colours are far shorter. What is longer carries
/// data (a clipboard, an image) that is no part of the screen's state.
const SEQUENCE_MAX: usize = 4 * 1024;

/// What a piece of output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// Text and single control characters, whole UTF-8 sequences of them where they are UTF-8 at all.
    Text(&'a [u8]),
    /// A whole escape sequence.
    Sequence(&'a [u8]),
}

/// Where in a sequence the output stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// A UTF-8 sequence of which the first bytes are there.
    Utf8,
    Escape,
    EscapeIntermediate,
    Csi,
    Osc,
    /// A control sequence that became too long.
    LongCsi,
    /// An operating system command that became too long.
    LongOsc,
    /// A string that the model does not know: DCS, SOS, PM, APC.
    Text,
}

/// Cuts one stream of output.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    state: State,
    /// The sequence that is not whole yet.
    held: Vec<u8>,
}

impl Scanner {
    /// Takes the next output and gives out what is whole now.
    pub(crate) fn scan(&mut self, mut bytes: &[u8], mut out: impl FnMut(Token<'_>)) {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Ground => self.scan_text(bytes, &mut out),
                State::Utf8 => self.scan_utf8(bytes[0], &mut out),
                State::Escape
                | State::EscapeIntermediate
                | State::Csi
                | State::Osc
                | State::LongCsi
                | State::LongOsc
                | State::Text => {
                    self.step(bytes[0], &mut out);
                    1
                }
            };
            bytes = &bytes[taken..];
        }
    }

    /// How many of the bytes scanned last belong to a sequence that is not whole, and were not given out.
    pub(crate) const fn held(&self) -> usize {
        self.held.len()
    }

    /// What makes a fresh terminal swallow the rest of a sequence that was let go.
    pub(crate) const fn opener(&self) -> &'static str {
        match self.state {
            State::Ground | State::Utf8 | State::Escape | State::EscapeIntermediate | State::Csi | State::Osc => "",
            State::LongCsi => "\x1b[",
            State::LongOsc => "\x1b]9999;",
            State::Text => "\x1b_",
        }
    }

    fn scan_text(&mut self, bytes: &[u8], out: &mut impl FnMut(Token<'_>)) -> usize {
        let len = bytes.iter().position(|&byte| byte == 0x1b).unwrap_or(bytes.len());
        let (text, rest) = bytes.split_at(len);
        // Only what ends with the input can be cut short; an escape ends a character, whole or not.
        let cut = if rest.is_empty() { partial_utf8(text) } else { 0 };
        let (text, partial) = text.split_at(len - cut);
        if !text.is_empty() {
            out(Token::Text(text));
        }
        if cut > 0 {
            self.hold(State::Utf8, partial);
        } else if !rest.is_empty() {
            self.hold(State::Escape, &rest[..1]);
            return len + 1;
        }
        len
    }

    fn scan_utf8(&mut self, byte: u8, out: &mut impl FnMut(Token<'_>)) -> usize {
        if byte & 0xc0 != 0x80 {
            // Cut off. The byte is looked at again, as text.
            self.give_text(out);
            return 0;
        }
        self.held.push(byte);
        if partial_utf8(&self.held) == 0 {
            self.give_text(out);
        }
        1
    }

    /// Takes the next byte of a sequence, by the rules of the DEC terminals' parser. Control characters inside a sequence
    /// stay in it and take effect with it.
    fn step(&mut self, byte: u8, out: &mut impl FnMut(Token<'_>)) {
        const BEL: u8 = 0x07;
        const CAN: u8 = 0x18;
        const SUB: u8 = 0x1a;
        const ESC: u8 = 0x1b;
        match (self.state, byte) {
            (State::Osc, ESC) => {
                // A string ends where an escape begins; the backslash that usually follows says nothing more.
                self.finish(BEL, out);
                self.hold(State::Escape, &[ESC]);
            }
            (_, ESC) => self.hold(State::Escape, &[ESC]),
            (_, CAN | SUB)
            | (State::Osc | State::LongOsc, BEL)
            | (State::Escape, 0x30..=0x4f | 0x51..=0x57 | 0x59 | 0x5a | 0x5c | 0x60..=0x7e)
            | (State::EscapeIntermediate, 0x30..=0x7e)
            | (State::Csi | State::LongCsi, 0x40..=0x7e) => self.finish(byte, out),
            (State::Escape, b'[') => self.push(State::Csi, byte),
            (State::Escape, b']') => self.push(State::Osc, byte),
            (State::Escape, b'P' | b'X' | b'^' | b'_') => self.let_go(State::Text),
            (State::Escape, 0x20..=0x2f) => self.push(State::EscapeIntermediate, byte),
            (State::LongCsi | State::LongOsc | State::Text, _) => {}
            (state, _) => self.push(state, byte),
        }
    }

    fn push(&mut self, state: State, byte: u8) {
        self.state = state;
        self.held.push(byte);
        if self.held.len() > SEQUENCE_MAX {
            self.let_go(match state {
                State::Csi => State::LongCsi,
                State::Osc => State::LongOsc,
                State::Ground
                | State::Utf8
                | State::Escape
                | State::EscapeIntermediate
                | State::LongCsi
                | State::LongOsc
                | State::Text => State::Ground,
            });
        }
    }

    fn hold(&mut self, state: State, bytes: &[u8]) {
        self.state = state;
        self.held.clear();
        self.held.extend_from_slice(bytes);
    }

    fn let_go(&mut self, state: State) {
        self.state = state;
        self.held = Vec::new();
    }

    fn finish(&mut self, byte: u8, out: &mut impl FnMut(Token<'_>)) {
        if self.held.is_empty() {
            return self.let_go(State::Ground);
        }
        self.held.push(byte);
        out(Token::Sequence(&self.held));
        self.held.clear();
        self.state = State::Ground;
    }

    fn give_text(&mut self, out: &mut impl FnMut(Token<'_>)) {
        out(Token::Text(&self.held));
        self.held.clear();
        self.state = State::Ground;
    }
}

/// How many bytes at the end of a text begin a UTF-8 sequence that goes on after it.
fn partial_utf8(text: &[u8]) -> usize {
    let tail = &text[text.len().saturating_sub(3)..];
    let begins = |at: &usize| {
        std::str::from_utf8(&tail[*at..]).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (0..tail.len()).find(begins).map_or(0, |at| tail.len() - at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(pieces: &[&[u8]]) -> (Vec<(bool, Vec<u8>)>, Scanner) {
        let (mut scanner, mut found) = (Scanner::default(), Vec::new());
        for piece in pieces {
            scanner.scan(piece, |token| {
                found.push(match token {
                    Token::Text(text) => (false, text.to_vec()),
                    Token::Sequence(sequence) => (true, sequence.to_vec()),
                });
            });
        }
        (found, scanner)
    }

    fn sequences(bytes: &[u8]) -> Vec<String> {
        let (found, _) = tokens(&[bytes]);
        found
            .into_iter()
            .filter(|(is_sequence, _)| *is_sequence)
            .map(|(_, it)| String::from_utf8(it).unwrap())
            .collect()
    }

    /// Text pieces put together, so that where the input was cut does not show.
    fn joined(found: Vec<(bool, Vec<u8>)>) -> Vec<(bool, Vec<u8>)> {
        found.into_iter().fold(Vec::new(), |mut all: Vec<(bool, Vec<u8>)>, (is_sequence, bytes)| {
            match all.last_mut() {
                Some((false, text)) if !is_sequence => text.extend(bytes),
                _ => all.push((is_sequence, bytes)),
            }
            all
        })
    }

    fn any_output() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[a-z\u{e4}\u{20ac}\u{1f600}]{1,6}".prop_map(String::into_bytes),
            Just(b"\x1b[1;31m".to_vec()),
            Just(b"\x1b(0".to_vec()),
            Just(b"\x1b7".to_vec()),
            Just(b"\x1b]2;title\x07".to_vec()),
            Just(b"\x1b]2;title\x1b\\".to_vec()),
            Just(b"\x1bPq#0;2\x1b\\".to_vec()),
            Just(b"\x1b[12\x18".to_vec()),
            proptest::collection::vec(any::<u8>(), 1..5),
        ];
        proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn where_the_output_is_cut_makes_no_difference(output in any_output(), cuts in proptest::collection::vec(1usize..7, 1..9)) {
            let (mut pieces, mut rest, mut cuts) = (Vec::new(), output.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                pieces.push(piece);
                rest = after;
            }
            let (whole, scanner) = tokens(&[&output]);
            let (cut, cut_scanner) = tokens(&pieces);
            prop_assert_eq!(joined(whole), joined(cut));
            prop_assert_eq!(scanner.held(), cut_scanner.held());
        }
    }

    #[test]
    fn sequences_come_whole_and_strings_the_model_does_not_know_not_at_all() {
        let output = b"a\x1b[1;2Hb\x1b]0;t\x07c\x1bPdata\x1b\\d\x1b(0\x1bM\x1b[!p";
        assert_eq!(sequences(output), ["\x1b[1;2H", "\x1b]0;t\x07", "\x1b\\", "\x1b(0", "\x1bM", "\x1b[!p"]);
    }

    #[test]
    fn an_unfinished_sequence_or_character_is_held() {
        for (output, held) in [("\x1b[3", 3), ("abc\x1b", 1), ("\x1b]2;ti", 6), ("abc", 0)] {
            assert_eq!(tokens(&[output.as_bytes()]).1.held(), held, "{output:?}");
        }
        assert_eq!(tokens(&[b"a\xe2\x82"]).1.held(), 2);
    }

    #[test]
    fn a_sequence_without_end_costs_nothing_and_its_rest_can_be_swallowed() {
        for (begin, end, opener) in
            [("\x1b[", "m", "\x1b["), ("\x1b]52;c;", "\x07", "\x1b]9999;"), ("\x1bP", "\x1b\\", "\x1b_")]
        {
            let endless = "1".repeat(100_000);
            let (found, mut scanner) = tokens(&[begin.as_bytes(), endless.as_bytes()]);
            assert!(found.is_empty() && scanner.held.capacity() <= 2 * SEQUENCE_MAX);
            assert_eq!(scanner.opener(), opener);
            let mut texts = Vec::new();
            scanner.scan(format!("{end}after").as_bytes(), |token| {
                if let Token::Text(text) = token {
                    texts.extend_from_slice(text);
                }
            });
            assert_eq!(texts, b"after");
        }
    }
}
