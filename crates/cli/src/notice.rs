//! What the person is told of a lost connection: one line, late enough that a blip says nothing, gone when it is over.
//!
//! Beside plain output it is a line on standard error. Where the process has the whole screen there is no place of ours,
//! and whatever we drew there the program would have to draw again, which it does not know. The terminal's title is
//! ours to use: it can be kept and brought back, and no program's screen is touched.

use std::time::Duration;

use tokio::time::Instant;

use crate::screen::{POP_TITLE, PUSH_TITLE, Screen, set_title};

/// A reconnection shorter than this is not worth a word.
const UNNOTICED: Duration = Duration::from_millis(500);

/// The notice of one attachment.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    lost: bool,
    due: Option<Instant>,
    text: String,
    shown: bool,
    /// Output ended inside a line, which a line of ours must not overwrite.
    mid_line: bool,
}

impl Notice {
    /// There is no connection, for this reason.
    pub(crate) fn lose(&mut self, attempt: usize, why: &str, now: Instant) {
        self.text = format!("landfast: reconnecting, attempt {attempt}. {why}");
        if !std::mem::replace(&mut self.lost, true) {
            self.due = Some(now + UNNOTICED);
        } else if self.due.is_none() {
            self.due = Some(now);
        }
    }

    /// Whether there is no connection.
    pub(crate) const fn is_lost(&self) -> bool {
        self.lost
    }

    /// When something is to be shown.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// These bytes were written where the notice goes.
    pub(crate) fn handle_output(&mut self, bytes: &[u8]) {
        if let Some(&last) = bytes.last() {
            self.mid_line = last != b'\n';
        }
    }

    /// What shows the notice now. Nothing in the middle of a control sequence: the next attempt brings another chance.
    pub(crate) fn show(&mut self, screen: Option<&Screen>) -> Option<String> {
        self.due = None;
        let again = self.shown;
        let sequence = match screen {
            Some(screen) if !screen.is_at_rest() => return None,
            Some(_) => format!("{}{}", if again { "" } else { PUSH_TITLE }, set_title(&self.text)),
            None if again => format!("\r\x1b[K{}", self.text),
            None => format!("{}{}", if self.mid_line { "\n" } else { "" }, self.text),
        };
        self.shown = true;
        Some(sequence)
    }

    /// There is a connection again, or none is wanted any more: what takes the notice away.
    pub(crate) fn hide(&mut self, screen: Option<&Screen>) -> Option<&'static str> {
        self.lost = false;
        self.due = None;
        std::mem::take(&mut self.shown).then_some(if screen.is_some() { POP_TITLE } else { "\r\x1b[K" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blip_says_nothing() {
        let (mut notice, now) = (Notice::default(), Instant::now());
        notice.lose(1, "Gone.", now);
        assert_eq!(notice.due(), Some(now + UNNOTICED));
        assert_eq!(notice.hide(None), None);
        assert_eq!(notice.due(), None);
    }

    #[test]
    fn the_line_is_overwritten_by_the_next_attempt_and_cleared_at_the_end() {
        let (mut notice, now) = (Notice::default(), Instant::now());
        notice.lose(1, "Gone.", now);
        assert_eq!(notice.show(None).unwrap(), "landfast: reconnecting, attempt 1. Gone.");
        notice.lose(2, "Still.", now);
        assert_eq!(notice.due(), Some(now));
        assert_eq!(notice.show(None).unwrap(), "\r\x1b[Klandfast: reconnecting, attempt 2. Still.");
        assert_eq!(notice.hide(None), Some("\r\x1b[K"));
    }

    #[test]
    fn a_line_of_output_is_not_overwritten() {
        let mut notice = Notice::default();
        notice.handle_output(b"half a line");
        notice.lose(1, "Gone.", Instant::now());
        assert!(notice.show(None).unwrap().starts_with('\n'));
    }

    #[test]
    fn on_a_screen_only_the_title_changes_and_never_inside_a_sequence() {
        let (mut notice, mut screen) = (Notice::default(), Screen::new(24, 80));
        notice.lose(1, "Gone.", Instant::now());
        screen.process(b"\x1b[3");
        assert_eq!(notice.show(Some(&screen)), None);
        screen.process(b"1m");
        assert_eq!(
            notice.show(Some(&screen)).unwrap(),
            "\x1b[22;2t\x1b]2;landfast: reconnecting, attempt 1. Gone.\x07"
        );
        assert_eq!(notice.hide(Some(&screen)), Some(POP_TITLE));
    }
}
