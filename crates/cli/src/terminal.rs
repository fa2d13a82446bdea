//! The local terminal: whether there is one, its size, and raw mode that is always taken back.
//!
//! A terminal left raw is the rudest thing a program can do to the person at it. So the way back is kept where every
//! exit can reach it: the guard's drop, the panic hook, and whoever ends the process on a signal.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What the terminal was before we changed it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal is raw while this lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes the terminal at standard input pass every key on as it is.
    ///
    /// # Errors
    ///
    /// If standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                previous(panic);
            }));
        });
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        lock().get_or_insert(before);
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was. Does nothing if it was not changed.
pub(crate) fn restore() {
    if let Some(before) = lock().take() {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}

/// Rows and columns of the terminal at standard output, else of the one at standard input; `None` if there is none.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Whether a person sees standard error.
pub(crate) fn is_seen() -> bool {
    io::stderr().is_terminal()
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}
