//! Terminals: a pair of ends, the process's and ours.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};

use landfast_core::{ErrorCode, Problem};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{InputModes, OptionalActions, SpecialCodeIndex, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use serde::{Deserialize, Serialize};

/// The most rows or columns of a terminal: several screens' worth, and small enough that a model of it stays small.
const SIDE_MAX: u16 = 1000;

/// The most cells: what the model keeps for each is 32 bytes, twice.
const CELLS_MAX: u32 = 250_000;

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Asked", into = "Asked")]
pub(crate) struct Size {
    rows: NonZeroU16,
    cols: NonZeroU16,
}

/// A size as it stands in JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    rows: u16,
    cols: u16,
}

impl Size {
    pub(crate) const fn of(rows: NonZeroU16, cols: NonZeroU16) -> Self {
        Self { rows, cols }
    }

    pub(crate) const fn rows(self) -> NonZeroU16 {
        self.rows
    }

    pub(crate) const fn cols(self) -> NonZeroU16 {
        self.cols
    }
}

impl TryFrom<Asked> for Size {
    type Error = Problem;

    fn try_from(asked: Asked) -> Result<Self, Problem> {
        let Asked { rows, cols } = asked;
        let fits = rows <= SIDE_MAX && cols <= SIDE_MAX && u32::from(rows) * u32::from(cols) <= CELLS_MAX;
        match (NonZeroU16::new(rows), NonZeroU16::new(cols)) {
            (Some(rows), Some(cols)) if fits => Ok(Self { rows, cols }),
            _ => Err(Problem::new(
                ErrorCode::RequestInvalid,
                format!(
                    "A terminal of {rows} rows and {cols} columns: each is 1 to {SIDE_MAX}, {CELLS_MAX} cells in all."
                ),
            )),
        }
    }
}

impl From<Size> for Asked {
    fn from(size: Size) -> Self {
        Self { rows: size.rows.get(), cols: size.cols.get() }
    }
}

/// The two ends of a new terminal.
pub(crate) struct Pty {
    /// Ours: what programs write can be read here, what is written here they read.
    pub(crate) master: OwnedFd,
    /// The process's.
    pub(crate) slave: OwnedFd,
}

impl Pty {
    /// Opens a terminal of a size.
    ///
    /// # Errors
    ///
    /// The kernel's, such as that there are no more.
    pub(crate) fn open(size: Size) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let mut modes = tcgetattr(&slave)?;
        // The kernel then erases whole characters on the line that is being typed.
        modes.input_modes |= InputModes::IUTF8;
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
        resize(&master, size)?;
        Ok(Self { master, slave })
    }
}

/// Gives a terminal another size; its programs get SIGWINCH if it is another.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows.get(), ws_col: size.cols.get(), ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// The byte that means "end of input" on this terminal now; `None` if its programs have switched that off.
pub(crate) fn end_of_input(terminal: impl AsFd) -> Option<u8> {
    // A disabled key is NUL.
    tcgetattr(terminal).ok().map(|modes| modes.special_codes[SpecialCodeIndex::VEOF]).filter(|&key| key != 0)
}
