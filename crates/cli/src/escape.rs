//! The way out of a terminal that passes every key on: `~` after a newline, as in ssh.

/// What the help says.
pub(crate) const HELP: &str = "\r\n\
    ~.  leave, and hang up what `exec` started\r\n\
    ~d  leave it running\r\n\
    ~?  this help\r\n\
    ~~  a tilde\r\n\
    (each at the beginning of a line)\r\n";

/// What the person at the keyboard wants of us, and not of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// End the connection; what `exec` started is hung up.
    Leave,
    /// End the connection; what runs goes on running.
    Detach,
    /// Show the help.
    Help,
}

/// Follows what is typed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Escapes {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// At the beginning of a line, where a tilde counts.
    #[default]
    LineStart,
    /// Inside a line.
    Inside,
    /// After a tilde that is held back until the next key says what it meant.
    Tilde,
}

impl Escapes {
    /// Takes typed bytes and appends to `out` what is meant for the process. Stops at a wish, and returns it with the
    /// number of bytes taken so far; call again with the rest.
    pub(crate) fn take(&mut self, typed: &[u8], out: &mut Vec<u8>) -> (usize, Option<Wish>) {
        for (at, &byte) in typed.iter().enumerate() {
            if let Some(wish) = self.step(byte, out) {
                return (at + 1, Some(wish));
            }
        }
        (typed.len(), None)
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Wish> {
        let wish = match (self.state, byte) {
            (State::LineStart, b'~') => {
                self.state = State::Tilde;
                return None;
            }
            (State::Tilde, b'.') => Some(Wish::Leave),
            (State::Tilde, b'd') => Some(Wish::Detach),
            (State::Tilde, b'?') => Some(Wish::Help),
            (State::Tilde, b'~') | (State::LineStart | State::Inside, _) => {
                out.push(byte);
                None
            }
            (State::Tilde, _) => {
                out.extend_from_slice(&[b'~', byte]);
                None
            }
        };
        let at_line_start = wish.is_some() || matches!(byte, b'\r' | b'\n');
        self.state = if at_line_start { State::LineStart } else { State::Inside };
        wish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reaches the process, and the wishes, with the typing cut into single keys or not at all.
    fn typed(keys: &str) -> (String, Vec<Wish>) {
        let run = |size: usize| {
            let (mut escapes, mut out, mut wishes) = (Escapes::default(), Vec::new(), Vec::new());
            for mut piece in keys.as_bytes().chunks(size) {
                while !piece.is_empty() {
                    let (taken, wish) = escapes.take(piece, &mut out);
                    piece = &piece[taken..];
                    wishes.extend(wish);
                }
            }
            (String::from_utf8(out).unwrap(), wishes)
        };
        assert_eq!(run(1), run(keys.len()), "{keys:?}");
        run(1)
    }

    #[test]
    fn a_tilde_at_the_beginning_of_a_line_is_held_back_for_its_meaning() {
        assert_eq!(typed("ls\r~."), ("ls\r".to_owned(), vec![Wish::Leave]));
        assert_eq!(typed("~d"), (String::new(), vec![Wish::Detach]));
        assert_eq!(typed("~"), (String::new(), vec![]));
    }

    #[test]
    fn a_tilde_elsewhere_is_a_tilde() {
        assert_eq!(typed("cd ~.\r"), ("cd ~.\r".to_owned(), vec![]));
    }

    #[test]
    fn two_tildes_are_one_and_an_unknown_escape_is_both_keys() {
        assert_eq!(typed("~~.\r~x"), ("~.\r~x".to_owned(), vec![]));
    }

    #[test]
    fn a_newline_after_a_tilde_begins_a_line() {
        assert_eq!(typed("~\r~."), ("~\r".to_owned(), vec![Wish::Leave]));
    }

    #[test]
    fn after_the_help_an_escape_counts_again() {
        assert_eq!(typed("\n~?~?x~."), ("\nx~.".to_owned(), vec![Wish::Help, Wish::Help]));
    }
}
