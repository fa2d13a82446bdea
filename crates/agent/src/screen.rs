//! What a terminal shows: a model that follows what its programs write, so that a viewer who comes late can be shown the
//! present screen instead of the whole past.
//!
//! Drawing costs far more than draining, and nobody may be looking. So the model follows the log at a distance, and
//! catches up when somebody asks. It is fed whole sequences only (see [`crate::scan`]): a screen may be asked for after
//! any byte, also in the middle of one, and the viewer's terminal must not be given its second half alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::log::{Log, Piece};
use crate::pty::Size;
use crate::scan::Scanner;
use crate::terminal::Terminal;

/// How far the model may be behind the log: less than the smallest log keeps, and enough that a flood is mostly passed
/// over.
const LAG: u64 = 64 * 1024;

/// Brings a terminal of unknown state to the state in which a program finds a new one. Unlike a full reset it leaves the
/// user's scrollback alone.
const FRESH: &str = "\x1b[!p\x1b[?1049l\x1b[!p\x1b[?7h\x1b[4l\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\
                     \x1b[?1004l\x1b[?2004l";

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

impl Screen {
    /// An empty screen.
    pub(crate) fn new(size: Size) -> Self {
        Self { scanner: Scanner::default(), terminal: Terminal::new(size), taken: 0, failures: 0 }
    }

    /// Follows the log, which has grown, if it has become too much to do later.
    pub(crate) fn follow(&mut self, log: &Log) {
        if log.end() - self.taken >= LAG {
            self.catch_up(log);
        }
    }

    /// Takes everything that is in the log.
    pub(crate) fn catch_up(&mut self, log: &Log) {
        loop {
            match log.read(self.taken) {
                Piece::Data(_, bytes) => self.feed(bytes),
                // Cannot be: the log keeps more than the model is behind.
                Piece::Gap { to } => self.taken = to,
                Piece::End => return,
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.taken += bytes.len() as u64;
        self.guarded(|terminal, scanner| scanner.scan(bytes, |token| terminal.apply(token)));
    }

    /// The terminal gets another size, where the log ends.
    pub(crate) fn resize(&mut self, log: &Log, size: Size) {
        self.catch_up(log);
        self.guarded(|terminal, _| terminal.resize(size));
    }

    /// What shows the screen where the log ends, and the offset from which the output goes on.
    pub(crate) fn redraw(&mut self, log: &Log) -> Redraw {
        self.catch_up(log);
        self.draw()
    }

    fn draw(&mut self) -> Redraw {
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::log::Stream;

    fn size(rows: u16, cols: u16) -> Size {
        Size::of(rows.try_into().unwrap(), cols.try_into().unwrap())
    }

    fn fed(rows: u16, cols: u16, output: &[u8]) -> Screen {
        let mut screen = Screen::new(size(rows, cols));
        screen.feed(output);
        screen
    }

    /// A terminal that was used for something else before.
    fn used(rows: u16, cols: u16) -> Screen {
        fed(
            rows,
            cols,
            b"old\x1b[?1049h\x1b[31m\x1b[2;4r\x1b[?6h\x1b[?1002;1006;2004;1004h\x1b[?7l\x1b[4h\x1b(0\x0e\x1b[?25l",
        )
    }

    fn same_after_redraw_at(rows: u16, cols: u16, output: &[u8], cut: usize) -> Result<(), TestCaseError> {
        let whole = fed(rows, cols, output);
        let mut at_cut = fed(rows, cols, &output[..cut]);
        prop_assume!(at_cut.terminal.cursor_can_be_placed());
        let redraw = at_cut.draw();
        prop_assert!(redraw.offset <= cut as u64);
        let rest = &output[redraw.offset as usize..];
        for mut late in [Screen::new(size(rows, cols)), used(rows, cols)] {
            late.terminal.forget_title();
            late.feed(&redraw.bytes);
            late.feed(rest);
            prop_assert_eq!(
                late.terminal.everything(),
                whole.terminal.everything(),
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
            screen.draw();
            screen.resize(&Log::lost(screen.taken), size(cols, rows));
            screen.draw();
            prop_assert_eq!(screen.failures, 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_flood_taken_at_once_shows_what_it_shows_line_by_line(
            before in any_output(),
            lines in proptest::collection::vec("[a-z\\x0e\\x0f\t]{0,30}", 200..1200),
            after in any_output(),
            more_rows in 0u16..9,
        ) {
            let flood: String = lines.iter().flat_map(|line| [line, "\r\n"]).collect();
            let [mut at_once, mut by_line] = [(); 2].map(|()| fed(8, 20, &before));
            at_once.feed(flood.as_bytes());
            flood.split_inclusive('\n').for_each(|line| by_line.feed(line.as_bytes()));
            for screen in [&mut at_once, &mut by_line] {
                screen.feed(&after);
                screen.resize(&Log::lost(screen.taken), size(8 + more_rows, 20));
            }
            prop_assert_eq!(at_once.terminal.everything(), by_line.terminal.everything());
        }
    }

    #[test]
    fn it_follows_the_log_at_a_distance_and_catches_up_when_asked() {
        let (mut log, mut screen) = (Log::new(0), Screen::new(size(5, 20)));
        let (reader, mut writer) = std::io::pipe().unwrap();
        for number in 0..100_000 {
            write!(writer, "line {number}\r\n").unwrap();
            log.fill_from(&reader, Stream::Stdout).unwrap();
            screen.follow(&log);
            assert!(log.end() - screen.taken < LAG);
        }
        let redraw = screen.redraw(&log);
        assert_eq!(redraw.offset, log.end());
        let shown = String::from_utf8(redraw.bytes).unwrap();
        assert!(shown.contains("line 99999") && !shown.contains("line 99990"), "{shown}");
    }
}
