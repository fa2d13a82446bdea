//! Signals: to a group, to what stands in a terminal's foreground, and to everything a process has started.

use std::fs;
use std::os::fd::AsFd;
use std::str::FromStr as _;

use landfast_core::{ErrorCode, Problem};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::termios::tcgetpgrp;

/// Rounds of looking for a session's processes: each finds what was forked during the one before.
const ROUNDS_MAX: u32 = 10;

/// Reads a signal's name, with or without `SIG`.
///
/// # Errors
///
/// [`ErrorCode::RequestInvalid`].
pub(crate) fn parse(name: &str) -> Result<Signal, Problem> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&full).map_err(|_| {
        Problem::new(
            ErrorCode::RequestInvalid,
            format!("There is no signal {name:?}; say for example \"INT\" or \"TERM\"."),
        )
    })
}

/// Sends a signal to a process's group or, on a terminal, to the group in the foreground: where a key would send it.
///
/// The process must not have been waited for, so that its number is still its own.
pub(crate) fn send(leader: i32, terminal: Option<impl AsFd>, signal: Signal) -> Result<(), Errno> {
    let foreground = terminal.and_then(|terminal| tcgetpgrp(terminal).ok()).map(|group| group.as_raw_nonzero().get());
    match foreground.filter(|&group| group != leader) {
        // It may have ended since.
        Some(group) if killpg(Pid::from_raw(group), signal).is_ok() => Ok(()),
        Some(_) | None => killpg(Pid::from_raw(leader), signal),
    }
}

/// Kills a process, its group, and whatever else is still in its session. What made a session of its own has left.
///
/// The process must not have been waited for, so that its number is still its own.
pub(crate) fn kill_session(leader: i32) {
    // The leader stays a zombie until it is waited for, so an error only says that nothing was left to kill.
    let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    for _ in 0..ROUNDS_MAX {
        let members = members(leader);
        if members.is_empty() {
            return;
        }
        for member in members {
            let _ = kill(Pid::from_raw(member), Signal::SIGKILL);
        }
    }
}

/// Sends a signal to everything in a process's session, and wakes what is stopped so that it can act on it.
///
/// The process must not have been waited for, so that its number is still its own.
pub(crate) fn ask_session(leader: i32, signal: Signal) {
    for member in members(leader) {
        // It may have ended since.
        let _ = kill(Pid::from_raw(member), signal);
        let _ = kill(Pid::from_raw(member), Signal::SIGCONT);
    }
}

/// The living processes of a session.
fn members(session: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| is_member(pid, session)).collect()
}

/// Whether a process, or one that it has started, is ending or has ended.
///
/// A process's connections are closed while it ends, before anybody can be told that it does. From then on the kernel
/// marks it, so that whoever sees one of its connections end can tell whether that was its own doing.
pub(crate) fn is_ending(pid: i32) -> Ending {
    if is_marked(pid) {
        return Ending::Itself;
    }
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let one_is = children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).any(is_marked);
    if one_is { Ending::Child } else { Ending::No }
}

/// What of a process is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing.
    No,
    /// One that it has started: if it is a shell around that one, it will end too.
    Child,
    /// It.
    Itself,
}

/// The kernel's mark on a process that is ending.
const PF_EXITING: u64 = 4;

fn is_marked(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let is_gone = matches!(fields.next(), None | Some("" | "Z" | "X"));
    is_gone || fields.nth(5).and_then(|flags| flags.parse().ok()).is_some_and(|flags: u64| flags & PF_EXITING != 0)
}

/// Whether a process lives and is in a session.
pub(crate) fn is_member(pid: i32, session: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in brackets and may hold anything; state, parent, group and session follow.
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let is_alive = !matches!(fields.next(), None | Some("Z" | "X"));
    is_alive && fields.nth(2).and_then(|field| field.parse().ok()) == Some(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_by_its_name_in_any_spelling() {
        for name in ["INT", "SIGINT", "int"] {
            assert_eq!(parse(name), Ok(Signal::SIGINT));
        }
        for name in ["", "SIG", "FOO", "2", "SIGSIGINT"] {
            assert_eq!(parse(name).unwrap_err().code, ErrorCode::RequestInvalid, "{name}");
        }
    }

    #[test]
    fn a_process_that_has_ended_is_known_to_before_it_is_waited_for() {
        let own = std::process::id().cast_signed();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id().cast_signed();
        assert_eq!(is_ending(pid), Ending::No);
        child.kill().unwrap();
        while is_ending(pid) == Ending::No {
            std::thread::yield_now();
        }
        assert_eq!(is_ending(pid), Ending::Itself);
        assert_ne!(is_ending(own), Ending::Itself);
        child.wait().unwrap();
        assert_eq!(is_ending(pid), Ending::Itself, "it is gone");
    }

    #[test]
    fn this_process_is_a_member_of_its_own_session() {
        let own = std::process::id().cast_signed();
        let session = nix::unistd::getsid(None).unwrap().as_raw();
        assert!(is_member(own, session) && !is_member(own, session + 1));
    }
}
